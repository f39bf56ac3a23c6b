package main

// #include "abi.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/tsnet"
)

// errNodeClosed ends calls whose node was closed meanwhile.
var errNodeClosed = errors.New("the node was closed")

// node is one handle of the C API.
type node struct {
	ts     *tsnet.Server
	ctx    context.Context // ends when the node is closed
	cancel context.CancelFunc
	log    *os.File // nil = discarded

	startMu sync.Mutex // tsnet must not be closed while it starts
	started bool
	closed  bool

	localAPI *http.Transport // the LocalAPI client's, once started

	work sync.WaitGroup // goroutines of ours that close waits for

	mu        sync.Mutex
	lastError string
}

// settleLimit bounds how long a close waits for its own goroutines.
const settleLimit = 2 * time.Second

// nodes is the table of live nodes, by handle.
var nodes = struct {
	sync.Mutex
	next int
	byID map[int]*node
}{byID: map[int]*node{}}

// live counts what a leak test wants to see go back to zero.
var live struct {
	listeners, connections, watches atomic.Int64
}

func addNode() int {
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{
		ts:     &tsnet.Server{UserLogf: func(string, ...any) {}},
		ctx:    ctx,
		cancel: cancel,
	}
	nodes.Lock()
	defer nodes.Unlock()
	nodes.next++
	nodes.byID[nodes.next] = n
	return nodes.next
}

func nodeByHandle(sd C.int) *node {
	nodes.Lock()
	defer nodes.Unlock()
	return nodes.byID[int(sd)]
}

func takeNode(sd C.int) *node {
	nodes.Lock()
	defer nodes.Unlock()
	n := nodes.byID[int(sd)]
	delete(nodes.byID, int(sd))
	return n
}

// fail records err as the node's last failure and returns the C API's -1.
func (n *node) fail(err error) C.int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastError = err.Error()
	return -1
}

// start starts the node once; later calls repeat the first one's answer.
func (n *node) start() error {
	n.startMu.Lock()
	defer n.startMu.Unlock()
	if n.closed {
		return errNodeClosed
	}
	if n.started {
		return nil
	}
	if err := n.ts.Start(); err != nil {
		return err
	}
	n.started = true
	return n.tune()
}

// client returns the in-process LocalAPI client of a started node.
func (n *node) client() (*local.Client, error) {
	n.startMu.Lock()
	started, closed := n.started, n.closed
	n.startMu.Unlock()
	switch {
	case closed:
		return nil, errNodeClosed
	case !started:
		return nil, errors.New("the node is not started")
	}
	return n.ts.LocalClient()
}

// startedNode returns the node behind a handle and its client.
func startedNode(sd C.int) (*node, *local.Client, error) {
	n := nodeByHandle(sd)
	if n == nil {
		return nil, nil, errNodeClosed
	}
	lc, err := n.client()
	return n, lc, err
}

// orClosed names the cause when a call failed because its node went away.
func (n *node) orClosed(err error) error {
	if n.ctx.Err() != nil {
		return errNodeClosed
	}
	return err
}

// recovered turns a panic of an exported function into its failure code.
func recovered(n *node, code *C.int) {
	if r := recover(); r != nil {
		*code = -1
		if n != nil {
			n.fail(fmt.Errorf("panic: %v", r))
		}
	}
}

// guarded runs f in a goroutine whose panic does not end the process and whose
// end tailscale_close waits for.
func guarded(n *node, f func()) {
	n.work.Go(func() {
		var code C.int
		defer recovered(n, &code)
		f()
	})
}

// settle waits until the node's goroutines have ended: what they close says
// goodbye while the network stack still works, and after a close nothing of
// the node is left. All of them end with n.ctx; the limit is a backstop.
func (n *node) settle() {
	done := make(chan struct{})
	go func() {
		n.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(settleLimit):
	}
}
