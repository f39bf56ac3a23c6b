package main

// #include "abi.h"
import "C"

import (
	"fmt"
	"strings"
)

//export tailscale_new
func tailscale_new() (code C.int) {
	defer recovered(nil, &code)
	return C.int(addNode())
}

// configure applies an option to a node that has not started yet.
func configure(sd C.int, apply func(*node)) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	n.startMu.Lock()
	defer n.startMu.Unlock()
	if n.started {
		return n.fail(fmt.Errorf("options are set before the node starts"))
	}
	apply(n)
	return 0
}

//export tailscale_set_dir
func tailscale_set_dir(sd C.int, dir *C.cchar) C.int {
	return configure(sd, func(n *node) { n.ts.Dir = goText(dir) })
}

//export tailscale_set_hostname
func tailscale_set_hostname(sd C.int, hostname *C.cchar) C.int {
	return configure(sd, func(n *node) { n.ts.Hostname = goText(hostname) })
}

//export tailscale_set_authkey
func tailscale_set_authkey(sd C.int, authkey *C.cchar) C.int {
	return configure(sd, func(n *node) { n.ts.AuthKey = goText(authkey) })
}

//export tailscale_set_control_url
func tailscale_set_control_url(sd C.int, controlURL *C.cchar) C.int {
	return configure(sd, func(n *node) { n.ts.ControlURL = goText(controlURL) })
}

//export tailscale_set_ephemeral
func tailscale_set_ephemeral(sd C.int, ephemeral C.int) C.int {
	return configure(sd, func(n *node) { n.ts.Ephemeral = ephemeral != 0 })
}

//export cmesh_set_tags
func cmesh_set_tags(sd C.int, tags *C.cchar) C.int {
	return configure(sd, func(n *node) {
		n.ts.AdvertiseTags = strings.FieldsFunc(goText(tags), func(r rune) bool { return r == ',' })
	})
}

//export cmesh_set_port
func cmesh_set_port(sd C.int, port C.int) C.int {
	if port < 0 || port > 65535 {
		return C.EINVAL
	}
	return configure(sd, func(n *node) { n.ts.Port = uint16(port) })
}

//export tailscale_set_logfd
func tailscale_set_logfd(sd C.int, fd C.int) C.int {
	var err error
	code := configure(sd, func(n *node) { err = n.logTo(int(fd)) })
	if code == 0 && err != nil {
		return C.EBADF
	}
	return code
}

// logTo writes the node's log lines to a duplicate of fd, so that a line that
// comes late never lands in a descriptor that got the same number.
func (n *node) logTo(fd int) error {
	if n.log != nil {
		n.log.Close()
		n.log, n.ts.Logf = nil, nil
	}
	if fd < 0 {
		return nil
	}
	log, err := duplicate(fd)
	if err != nil {
		return err
	}
	n.log = log
	n.ts.Logf = func(format string, args ...any) {
		_, _ = log.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), "\n") + "\n")
	}
	return nil
}
