package main

import (
	"context"
	"io"
	"net"
	"sync"
)

// connections maps the C side of a live connection to its remote "ip:port".
var connections sync.Map

// halfCloser is what TCP connections of the tailnet offer; UDP ones do not.
type halfCloser interface{ CloseWrite() error }

// pump joins a tailnet connection with our end of a pair until both directions
// ended. Half-close and backpressure pass through: each direction ends alone,
// and a full buffer on one side stops reading on the other.
func pump(n *node, remote net.Conn, p pair) {
	address := new(remote.RemoteAddr().String()) // a pointer: told from a later one's
	connections.Store(p.key, address)
	live.connections.Add(1)
	guarded(n, func() {
		defer live.connections.Add(-1)
		defer connections.CompareAndDelete(p.key, address)
		end := func() { remote.Close(); p.ours.Close() }
		defer end()
		defer context.AfterFunc(n.ctx, end)()
		inbound := make(chan struct{})
		guarded(n, func() {
			defer close(inbound)
			toProcess(remote, p)
		})
		toTailnet(remote, p)
		<-inbound
	})
}

func toTailnet(remote net.Conn, p pair) {
	if _, err := io.Copy(remote, p.ours); err != nil {
		remote.Close()
		p.ours.Close()
		return
	}
	if h, ok := remote.(halfCloser); ok {
		_ = h.CloseWrite()
	}
	// The process may have shut down writing only: keep delivering to it until
	// it hangs up, then end the tailnet side too.
	waitHangup(p)
	remote.Close()
}

func toProcess(remote net.Conn, p pair) {
	if _, err := io.Copy(p.ours, remote); err != nil {
		remote.Close()
		p.ours.Close()
		return
	}
	_ = p.ours.CloseWrite()
}
