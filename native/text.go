package main

// #include "abi.h"
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"unsafe"
)

// copyText writes s with its terminator into a C buffer, or reports ERANGE.
func copyText(s string, buf *C.char, size C.size_t) C.int {
	if buf == nil || C.size_t(len(s)) >= size {
		return C.ERANGE
	}
	out := unsafe.Slice((*byte)(unsafe.Pointer(buf)), len(s)+1)
	copy(out, s)
	out[len(s)] = 0
	return 0
}

func goText(s *C.cchar) string {
	if s == nil {
		return ""
	}
	return C.GoString((*C.char)(unsafe.Pointer(s)))
}

// answer is where a cmesh call writes its result or its error's text.
type answer struct {
	buf    *C.char
	size   C.size_t
	needed *C.size_t
}

// json writes v.
func (a answer) json(v any) C.int {
	text, err := json.Marshal(v)
	if err != nil {
		return a.fail(err)
	}
	return a.text(string(text))
}

func (a answer) text(s string) C.int {
	if a.needed != nil {
		*a.needed = C.size_t(len(s) + 1)
	}
	return copyText(s, a.buf, a.size)
}

// fail writes err's text, cut to the buffer, and returns its code.
func (a answer) fail(err error) C.int {
	s := err.Error()
	if a.size > 0 && len(s) >= int(a.size) {
		s = strings.ToValidUTF8(s[:a.size-1], "")
	}
	a.text(s)
	return codeOf(err)
}

// recovered is the cmesh calls' last resort, for `defer`.
func (a answer) recovered(code *C.int) {
	if r := recover(); r != nil {
		a.fail(fmt.Errorf("panic: %v", r))
		*code = -1
	}
}

// codedError is an error that a caller tells apart by its number.
type codedError struct {
	code C.int
	text string
}

func (e codedError) Error() string { return e.text }

func codeOf(err error) C.int {
	var coded codedError
	var timeout net.Error
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, errNodeClosed):
		return C.EBADF
	case errors.Is(err, context.DeadlineExceeded):
		return C.ETIMEDOUT
	case errors.Is(err, context.Canceled):
		return C.ECANCELED
	case strings.Contains(err.Error(), "connection was refused"):
		return C.ECONNREFUSED // gVisor's error has no type of its own
	case errors.As(err, &timeout) && timeout.Timeout():
		return C.ETIMEDOUT
	}
	return -1
}
