package main

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/wgengine/netstack"
)

// timeWait is how long a closed connection is remembered. The stack's own 60 s
// keep 75 kB each for nothing: WireGuard lets no packet in twice.
const timeWait = 5 * time.Second

// farewellLimit bounds how long a close waits for the other sides to confirm the
// end of its connections; one repetition of a lost packet fits in.
const farewellLimit = 300 * time.Millisecond

// pollEvery is how often a close looks at the stack's state.
const pollEvery = time.Millisecond

// tune sets what tsnet leaves at its parts' defaults, before they are used.
func (n *node) tune() error {
	lc, err := n.ts.LocalClient()
	if err != nil {
		return err
	}
	n.localAPI = &http.Transport{DialContext: lc.Dial}
	lc.Transport = n.localAPI
	impl, err := n.netstack()
	if err != nil {
		return err
	}
	limit := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	if refused := impl.SetTransportProtocolOption(tcp.ProtocolNumber, &limit); refused != nil {
		return errors.New(refused.String())
	}
	return nil
}

func (n *node) netstack() (*netstack.Impl, error) {
	sub, _ := n.ts.Sys().Netstack.GetOK()
	impl, ok := sub.(*netstack.Impl)
	if !ok {
		return nil, errors.New("the node has no network stack")
	}
	return impl, nil
}

// closeServer closes the tsnet server, around two waits of its Close, and one
// that it lacks: a node that leaves at once takes its farewells along, and its
// peers hang. (57 of 100 connections heard of the end.)
//
// Close gives connections to its LocalAPI that carried no request yet 5 s, so the
// client's end of those is closed first. And it ends the reader of its stack's
// outbound queue (512 packets) before it resets the stack's connections, and
// each reset writes a packet: with more connections than slots, those that
// linger included, its Close waits for ever. So the queue is emptied here once
// nobody else does.
func (n *node) closeServer() error {
	n.localAPI.CloseIdleConnections()
	impl, err := n.netstack()
	if err != nil {
		return n.ts.Close()
	}
	ip := reach[*stack.Stack](impl, "ipstack")
	for end := time.Now().Add(farewellLimit); unconfirmed(ip) && time.Now().Before(end); {
		time.Sleep(pollEvery)
	}
	outbound := reach[chan *stack.PacketBuffer](impl, "linkEP", "q", "c")
	closed := make(chan struct{})
	defer close(closed)
	go discardWhenFull(outbound, closed)
	return n.ts.Close()
}

// unconfirmed says whether a connection was closed here and the other side has
// not said that it knows.
func unconfirmed(ip *stack.Stack) bool {
	if ip == nil {
		return false
	}
	return slices.ContainsFunc(ip.RegisteredEndpoints(), func(endpoint stack.TransportEndpoint) bool {
		e, ok := endpoint.(*tcp.Endpoint)
		if !ok {
			return false
		}
		switch e.EndpointState() {
		case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
			return true
		}
		return false
	})
}

// discardWhenFull leaves the queue alone until it is full, so that the stack's
// own reader, while there is one, still sends what is in it.
func discardWhenFull(outbound <-chan *stack.PacketBuffer, closed <-chan struct{}) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-closed:
			return
		case <-tick.C:
		}
		if len(outbound) == cap(outbound) && !empty(outbound) {
			return
		}
	}
}

// empty discards what is in the queue; it reports whether more may come.
func empty(queue <-chan *stack.PacketBuffer) bool {
	for {
		select {
		case packet, open := <-queue:
			if !open {
				return false
			}
			packet.DecRef()
		default:
			return true
		}
	}
}

// reach reads a private field of the pinned version of the stack: the zero value
// when it changed, which TestThePrivateFieldsAreThere tells.
func reach[T any](impl *netstack.Impl, names ...string) T {
	var none T
	value := reflect.ValueOf(impl)
	for _, name := range names {
		if value.Kind() != reflect.Pointer || value.IsNil() {
			return none
		}
		if value = value.Elem().FieldByName(name); !value.IsValid() {
			return none
		}
	}
	field := reflect.NewAt(value.Type(), unsafe.Pointer(value.UnsafeAddr())).Elem()
	found, _ := field.Interface().(T)
	return found
}
