package main

// #include "abi.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

//export tailscale_dial
func tailscale_dial(sd C.int, network, addr *C.cchar, connOut *C.int) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if connOut == nil {
		return n.fail(errors.New("conn_out is NULL"))
	}
	if err := n.start(); err != nil {
		return n.fail(err)
	}
	fd, err := n.dialTailnet(n.ctx, goText(network), goText(addr))
	if err != nil {
		return n.fail(n.orClosed(err))
	}
	*connOut = C.int(fd)
	return 0
}

// dialTailnet reaches what tsnet's Dial reaches inside the tailnet: peers by
// name or address, and addresses that a peer routes.
func (n *node) dialTailnet(ctx context.Context, network, addr string) (int, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return -1, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return -1, fmt.Errorf("`%s` is no port", portText)
	}
	if _, err := n.ts.Up(ctx); err != nil {
		return -1, err
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !n.ts.Sys().Dialer.Get().UseNetstackForIP(ip) {
		if ip, err = resolvePeer(ctx, n, host); err != nil {
			return -1, err
		}
	}
	if strings.HasSuffix(network, "4") && !ip.Is4() || strings.HasSuffix(network, "6") && !ip.Is6() {
		return -1, fmt.Errorf("`%s` is no address for network `%s`", ip, network)
	}
	return n.connect(ctx, network, netip.AddrPortFrom(ip, uint16(port)))
}

//export cmesh_dial
func cmesh_dial(sd C.int, peer *C.cchar, port, timeoutMS, op C.int, connOut *C.int,
	out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, _, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	switch {
	case connOut == nil:
		return a.fail(codedError{C.EINVAL, "conn_out is NULL"})
	case port < 1 || port > 65535:
		return a.fail(codedError{C.EINVAL, fmt.Sprintf("`%d` is no port", port)})
	}
	ctx, cancel, err := n.within(timeoutMS, op)
	if err != nil {
		return a.fail(err)
	}
	defer cancel()
	ip, err := resolvePeer(ctx, n, goText(peer))
	if err != nil {
		return a.fail(ended(ctx, n, err))
	}
	fd, err := n.connect(ctx, "tcp", netip.AddrPortFrom(ip, uint16(port)))
	if err != nil {
		return a.fail(ended(ctx, n, err))
	}
	*connOut = C.int(fd)
	return a.json(netip.AddrPortFrom(ip, uint16(port)).String())
}

// ended prefers the reason a context ended to what the network said about it.
func ended(ctx context.Context, n *node, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return n.orClosed(cause)
	}
	return n.orClosed(err)
}

// connect opens a connection inside the node's own network stack. It never
// uses tsnet's Dial, which hands what is no peer to the host's network.
func (n *node) connect(ctx context.Context, network string, dst netip.AddrPort) (int, error) {
	dialer := n.ts.Sys().Dialer.Get()
	var remote net.Conn
	var err error
	switch network {
	case "tcp", "tcp4", "tcp6":
		remote, err = dialer.NetstackDialTCP(ctx, dst)
	case "udp", "udp4", "udp6":
		remote, err = dialer.NetstackDialUDP(ctx, dst)
	default:
		return -1, fmt.Errorf("unknown network `%s`", network)
	}
	if err != nil {
		return -1, err
	}
	p, err := newPair()
	if err != nil {
		remote.Close()
		return -1, err
	}
	pump(n, remote, p)
	return p.theirs, nil
}
