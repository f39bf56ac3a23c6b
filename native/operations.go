package main

// #include "abi.h"
import "C"

import (
	"context"
	"sync"
	"time"
)

// operations is the table of calls that another thread may cancel.
var operations = struct {
	sync.Mutex
	next int
	byID map[int]*operation
}{byID: map[int]*operation{}}

type operation struct {
	ctx    context.Context
	cancel context.CancelFunc
}

//export cmesh_op_new
func cmesh_op_new() (code C.int) {
	defer recovered(nil, &code)
	ctx, cancel := context.WithCancel(context.Background())
	operations.Lock()
	defer operations.Unlock()
	operations.next++
	operations.byID[operations.next] = &operation{ctx, cancel}
	return C.int(operations.next)
}

//export cmesh_op_cancel
func cmesh_op_cancel(op C.int) C.int { return endOperation(op, false) }

//export cmesh_op_close
func cmesh_op_close(op C.int) C.int { return endOperation(op, true) }

func endOperation(op C.int, forget bool) (code C.int) {
	defer recovered(nil, &code)
	operations.Lock()
	defer operations.Unlock()
	o := operations.byID[int(op)]
	if o == nil {
		return C.EBADF
	}
	o.cancel()
	if forget {
		delete(operations.byID, int(op))
	}
	return 0
}

// within returns a context that ends with the node, the deadline or the
// operation, whichever is first. Operation 0 never ends.
func (n *node) within(timeoutMS, op C.int) (context.Context, context.CancelFunc, error) {
	if timeoutMS <= 0 {
		return nil, nil, codedError{C.EINVAL, "timeout_ms must be positive"}
	}
	ctx, cancel := context.WithTimeout(n.ctx, time.Duration(timeoutMS)*time.Millisecond)
	if op == 0 {
		return ctx, cancel, nil
	}
	operations.Lock()
	defer operations.Unlock()
	o := operations.byID[int(op)]
	if o == nil {
		cancel()
		return nil, nil, codedError{C.EBADF, "no such operation"}
	}
	stop := context.AfterFunc(o.ctx, cancel)
	if o.ctx.Err() != nil {
		cancel() // at once: AfterFunc does it in a goroutine, and the call may end before that
	}
	return ctx, func() { stop(); cancel() }, nil
}
