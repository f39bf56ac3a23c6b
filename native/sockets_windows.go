package main

// #include <errno.h>
// #include <stdint.h>
// #include <stdlib.h>
// #include <io.h>
//
// /* Of the universal C runtime; the headers have it for C++ only. */
// extern _invalid_parameter_handler __cdecl
// _set_thread_local_invalid_parameter_handler(_invalid_parameter_handler);
//
// static void nothing(const wchar_t *what, const wchar_t *where, const wchar_t *file,
//                     unsigned int line, uintptr_t reserved) {}
//
// /* Of a number that is no descriptor the runtime would end the process. */
// static intptr_t handle_of(int fd) {
//   _invalid_parameter_handler before = _set_thread_local_invalid_parameter_handler(nothing);
//   intptr_t handle = _get_osfhandle(fd);
//   _set_thread_local_invalid_parameter_handler(before);
//   return handle;
// }
import "C"

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/windows"

	"cmesh.dev/native/localpair"
)

// pair is two sockets joined over loopback: one for Go's poller, one for C. A
// socket that Go's poller knows could not be given to another poller.
type pair struct {
	ours   *net.TCPConn
	theirs int
	key    socketKey // of theirs
}

// socketKey names a socket by where it is bound, which it has for itself: so a
// duplicate is recognised and a reused number is not.
type socketKey netip.AddrPort

// hangupEvery is how often a connection that C only reads is looked at.
const hangupEvery = 50 * time.Millisecond

// backlogSize is how many connections of a listener wait for an accept.
const backlogSize = 128

func newPair() (pair, error) {
	end, err := newEnd()
	if err != nil {
		return pair{}, err
	}
	ours, err := localpair.New(end, localpair.Limit)
	if err != nil {
		return pair{}, err
	}
	return pair{ours: ours, theirs: int(end.socket), key: socketKey(end.at)}, nil
}

func keyOf(fd int) (socketKey, error) {
	at, err := boundTo(windows.Handle(fd))
	if err != nil {
		return socketKey{}, syscall.ENOTSOCK
	}
	return socketKey(at), nil
}

// waitHangup returns when C has closed its end altogether, not on SD_SEND. TCP
// says the same for both, but the descriptor that C was given is gone then: a
// duplicate does not keep a connection that nobody writes to.
func waitHangup(p pair) {
	if _, err := io.Copy(io.Discard, p.ours); err != nil {
		return
	}
	raw, err := p.ours.SyscallConn()
	if err != nil {
		return
	}
	for raw.Control(func(uintptr) {}) == nil { // until we closed it
		if key, err := keyOf(p.theirs); err != nil || key != p.key {
			return
		}
		time.Sleep(hangupEvery)
	}
}

// backlog is what a listener offers. A descriptor needs no passing here, since
// acceptor and listener are of one process; each one that waits is a byte in the
// listener's socket, so that this can be polled.
type backlog struct {
	waiting chan offered
	ended   chan struct{}
	end     func()
}

type offered struct {
	fd     int
	remote string
}

// backlogs has those of listeners that offered something, by the listener's key.
var backlogs sync.Map

func newBacklog() *backlog {
	b := &backlog{waiting: make(chan offered, backlogSize), ended: make(chan struct{})}
	b.end = sync.OnceFunc(func() { close(b.ended) })
	return b
}

// offer lets the listener's other end take a connection. It blocks while nobody
// accepts and the backlog is full.
func offer(listener, connection pair, remote string) error {
	found, ok := backlogs.Load(listener.key)
	if !ok {
		found, _ = backlogs.LoadOrStore(listener.key, newBacklog())
	}
	b := found.(*backlog)
	select {
	case b.waiting <- offered{connection.theirs, remote}:
	case <-b.ended:
		windows.Closesocket(windows.Handle(connection.theirs))
		return errListenerClosed
	}
	_, err := listener.ours.Write([]byte{1})
	select {
	case <-b.ended: // perhaps before it was put there
		b.drop()
	default:
	}
	return err
}

// withdraw ends what was offered and not taken.
func withdraw(listener pair) {
	if found, ok := backlogs.LoadAndDelete(listener.key); ok {
		b := found.(*backlog)
		b.end()
		b.drop()
	}
}

func (b *backlog) drop() {
	for {
		select {
		case o := <-b.waiting:
			windows.Closesocket(windows.Handle(o.fd))
		default:
			return
		}
	}
}

// take receives what offer put there. Blocking is up to the descriptor's mode.
func take(listener int) (fd int, remote string, err error) {
	key, err := keyOf(listener)
	if err != nil {
		return -1, "", err
	}
	var one [1]byte
	n, err := receive(windows.Handle(listener), one[:])
	if err != nil {
		return -1, "", err
	}
	found, ok := backlogs.Load(key)
	if n == 0 || !ok {
		return -1, "", errListenerClosed
	}
	select {
	case o := <-found.(*backlog).waiting:
		return o.fd, o.remote, nil
	default:
		return -1, "", errListenerClosed
	}
}

// numberOf gives C's number for Winsock's, -1 where there is none.
func numberOf(errno syscall.Errno) int {
	switch errno {
	case windows.WSAEWOULDBLOCK:
		return C.EAGAIN
	case windows.WSAEINTR:
		return C.EINTR
	case windows.WSAEMFILE:
		return C.EMFILE
	case windows.WSAENOBUFS:
		return C.ENOBUFS
	}
	return -1
}

// duplicate returns a file of our own for a descriptor of the C runtime's.
func duplicate(fd int) (*os.File, error) {
	source := windows.Handle(C.handle_of(C.int(fd)))
	if source == windows.InvalidHandle {
		return nil, errors.New("no such descriptor")
	}
	own := windows.CurrentProcess()
	var copied windows.Handle
	err := windows.DuplicateHandle(own, source, own, &copied, 0, false, windows.DUPLICATE_SAME_ACCESS)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), "log"), nil
}
