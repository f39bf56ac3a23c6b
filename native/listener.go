package main

// #include "abi.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

//export tailscale_listen
func tailscale_listen(sd C.int, network, addr *C.cchar, listenerOut *C.int) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if listenerOut == nil {
		return n.fail(errors.New("listener_out is NULL"))
	}
	if err := n.start(); err != nil {
		return n.fail(err)
	}
	ln, err := n.ts.Listen(goText(network), goText(addr))
	if err != nil {
		return n.fail(err)
	}
	p, err := newPair()
	if err != nil {
		ln.Close()
		return n.fail(err)
	}
	n.serve(ln, p)
	*listenerOut = C.int(p.theirs)
	return 0
}

// recordSize is what an address is given out in, and on Unix a listener's
// message: the remote "ip:port", padded with zeros. A fixed size keeps messages
// apart on a stream socket.
const recordSize = 64

// errListenerClosed says that the other end of the listener is gone.
var errListenerClosed = errors.New("the listener's node was closed")

// listeners knows the C side of each live listener.
var listeners sync.Map

// serve hands accepted connections to the listener's descriptor until either
// side closes it, or the node ends.
func (n *node) serve(ln net.Listener, p pair) {
	listeners.Store(p.key, ln)
	live.listeners.Add(1)
	guarded(n, func() {
		waitHangup(p)
		ln.Close()
	})
	guarded(n, func() {
		defer live.listeners.Add(-1)
		defer listeners.CompareAndDelete(p.key, ln)
		end := func() { ln.Close(); p.ours.Close(); withdraw(p) } // ends an offer nobody takes, too
		defer end()
		defer context.AfterFunc(n.ctx, end)()
		for {
			remote, err := ln.Accept()
			if err != nil {
				return
			}
			if err := n.hand(p, remote); err != nil {
				remote.Close()
			}
		}
	})
}

// hand makes a pair for remote and offers its far end to the acceptor.
func (n *node) hand(listener pair, remote net.Conn) error {
	p, err := newPair()
	if err != nil {
		return err
	}
	pump(n, remote, p)
	return offer(listener, p, remote.RemoteAddr().String())
}

//export tailscale_accept
func tailscale_accept(listener C.int, connOut *C.int) (code C.int) {
	defer recovered(nil, &code)
	if connOut == nil {
		return C.EINVAL
	}
	fd, _, err := accept(int(listener))
	if err != nil {
		return acceptCode(err)
	}
	*connOut = C.int(fd)
	return 0
}

//export cmesh_accept
func cmesh_accept(listener C.int, connOut *C.int, addrOut *C.char, addrlen C.size_t) (code C.int) {
	defer recovered(nil, &code)
	if connOut == nil || addrOut == nil {
		return C.EINVAL
	}
	if addrlen < recordSize {
		return C.ERANGE
	}
	fd, remote, err := accept(int(listener))
	if err != nil {
		return acceptCode(err)
	}
	*connOut = C.int(fd)
	return copyText(remote, addrOut, addrlen)
}

// accept takes a connection from a descriptor that is a live listener's.
func accept(listener int) (fd int, remote string, err error) {
	key, err := keyOf(listener)
	if err != nil {
		return -1, "", err
	}
	if _, ok := listeners.Load(key); !ok {
		return -1, "", errListenerClosed
	}
	return take(listener)
}

// acceptCode gives the system's number where there is one.
func acceptCode(err error) C.int {
	var errno syscall.Errno
	switch {
	case errors.Is(err, errListenerClosed), errors.Is(err, syscall.ENOTSOCK):
		return C.EBADF
	case errors.As(err, &errno):
		return C.int(numberOf(errno))
	}
	return -1
}

//export tailscale_getremoteaddr
func tailscale_getremoteaddr(listener, conn C.int, buf *C.char, buflen C.size_t) (code C.int) {
	defer recovered(nil, &code)
	if _, err := keyOf(int(listener)); err != nil {
		return C.EBADF
	}
	remote, err := remoteOf(int(conn))
	if err != nil {
		return C.EBADF
	}
	return copyText(remote.Addr().String(), buf, buflen)
}

// remoteOf finds the remote side of a descriptor that accept or dial gave.
func remoteOf(fd int) (netip.AddrPort, error) {
	key, err := keyOf(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	remote, ok := connections.Load(key)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("descriptor %d is no tailnet connection", fd)
	}
	return netip.ParseAddrPort(*remote.(*string))
}
