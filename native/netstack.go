package main

import (
	"errors"
	"net/http"
	"reflect"
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

// flushLimit bounds how long a close waits for its last packets to leave.
const flushLimit = 100 * time.Millisecond

// queuePollEvery is how often a close looks at the outbound queue.
const queuePollEvery = time.Millisecond

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

// closeServer closes the tsnet server, around two waits of its Close.
//
// It gives connections to its LocalAPI that carried no request yet 5 s, so the
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
	outbound := outboundOf(impl)
	for end := time.Now().Add(flushLimit); len(outbound) > 0 && time.Now().Before(end); {
		time.Sleep(queuePollEvery)
	}
	closed := make(chan struct{})
	defer close(closed)
	go discardWhenFull(outbound, closed)
	return n.ts.Close()
}

// discardWhenFull leaves the queue alone until it is full, so that the stack's
// own reader, while there is one, still sends what is in it.
func discardWhenFull(outbound <-chan *stack.PacketBuffer, closed <-chan struct{}) {
	tick := time.NewTicker(queuePollEvery)
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

// outboundOf reaches into the pinned version of the stack; nil when it changed,
// which the test that closes a node with a thousand connections would tell.
func outboundOf(impl *netstack.Impl) <-chan *stack.PacketBuffer {
	value := reflect.ValueOf(impl)
	for _, name := range []string{"linkEP", "q", "c"} {
		if value = value.Elem().FieldByName(name); !value.IsValid() {
			return nil
		}
	}
	reached := reflect.NewAt(value.Type(), unsafe.Pointer(value.UnsafeAddr())).Elem().Interface()
	queue, _ := reached.(chan *stack.PacketBuffer)
	return queue
}
