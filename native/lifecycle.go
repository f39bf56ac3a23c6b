package main

// #include "abi.h"
import "C"

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// logoutLimit bounds how long control may take to confirm a logout.
const logoutLimit = 10 * time.Second

//export tailscale_start
func tailscale_start(sd C.int) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if err := n.start(); err != nil {
		return n.fail(err)
	}
	return 0
}

//export tailscale_up
func tailscale_up(sd C.int) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if err := n.start(); err != nil {
		return n.fail(err)
	}
	if _, err := n.ts.Up(n.ctx); err != nil {
		return n.fail(err)
	}
	return 0
}

//export tailscale_close
func tailscale_close(sd C.int) (code C.int) {
	n := takeNode(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	n.cancel()
	n.startMu.Lock()
	defer n.startMu.Unlock()
	n.closed = true
	defer n.log.Close() // a nil file only answers an error
	if !n.started {
		return 0
	}
	n.settle()
	if err := n.closeServer(); err != nil {
		return -1
	}
	return 0
}

//export tailscale_getips
func tailscale_getips(sd C.int, buf *C.char, buflen C.size_t) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if _, err := n.client(); err != nil {
		return n.fail(err)
	}
	var addresses []string
	v4, v6 := n.ts.TailscaleIPs()
	for _, ip := range []netip.Addr{v4, v6} {
		if ip.IsValid() {
			addresses = append(addresses, ip.String())
		}
	}
	return copyText(strings.Join(addresses, ","), buf, buflen)
}

//export tailscale_errmsg
func tailscale_errmsg(sd C.int, buf *C.char, buflen C.size_t) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	n.mu.Lock()
	defer n.mu.Unlock()
	return copyText(n.lastError, buf, buflen)
}

//export cmesh_login
func cmesh_login(sd C.int, out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	if err := lc.StartLoginInteractive(n.ctx); err != nil {
		return a.fail(n.orClosed(err))
	}
	return a.json(struct{}{})
}

//export cmesh_logout
func cmesh_logout(sd C.int, out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	ctx, cancel := context.WithTimeout(n.ctx, logoutLimit)
	defer cancel()
	if err := lc.Logout(ctx); err != nil {
		return a.fail(n.orClosed(err))
	}
	return a.json(struct{}{})
}
