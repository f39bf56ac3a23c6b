package main

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/windows"

	"cmesh.dev/native/localpair"
)

// From winsock2.h.
const (
	receiveTimeout = 0x1006 // SO_RCVTIMEO
	sendTimeout    = 0x1005 // SO_SNDTIMEO
	tcpNoDelay     = 1      // TCP_NODELAY
)

// end is the socket that C gets: blocking, and never seen by Go's poller.
type end struct {
	socket windows.Handle
	at     netip.AddrPort
}

var _ localpair.End = (*end)(nil)

func newEnd() (*end, error) {
	socket, err := windows.WSASocket(windows.AF_INET, windows.SOCK_STREAM, 0, nil, 0,
		windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	e := &end{socket: socket}
	if err := e.bind(); err != nil {
		e.Close()
		return nil, fmt.Errorf("bind: %w", err)
	}
	return e, nil
}

func (e *end) bind() error {
	err := windows.SetsockoptInt(e.socket, windows.SOL_SOCKET, localpair.ExclusiveAddress, 1)
	if err != nil {
		return err
	}
	if err := windows.Bind(e.socket, &windows.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	e.at, err = boundTo(e.socket)
	return err
}

func boundTo(socket windows.Handle) (netip.AddrPort, error) {
	name, err := windows.Getsockname(socket)
	if err != nil {
		return netip.AddrPort{}, err
	}
	inet, ok := name.(*windows.SockaddrInet4)
	if !ok {
		return netip.AddrPort{}, windows.WSAEAFNOSUPPORT
	}
	return netip.AddrPortFrom(netip.AddrFrom4(inet.Addr), uint16(inet.Port)), nil
}

func (e *end) Addr() netip.AddrPort { return e.at }

func (e *end) Connect(to netip.AddrPort, deadline time.Time) error {
	if err := e.within(max(time.Until(deadline), time.Millisecond)); err != nil {
		return err
	}
	_ = windows.SetsockoptInt(e.socket, windows.IPPROTO_TCP, tcpNoDelay, 1)
	return windows.Connect(e.socket, &windows.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
}

func (e *end) Joined() error { return e.within(0) }

// within bounds each read and write; 0 = not at all.
func (e *end) within(limit time.Duration) error {
	for _, option := range []int{receiveTimeout, sendTimeout} {
		err := windows.SetsockoptInt(e.socket, windows.SOL_SOCKET, option, int(limit.Milliseconds()))
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *end) Read(into []byte) (int, error) {
	n, err := receive(e.socket, into)
	switch {
	case err == windows.WSAETIMEDOUT:
		return 0, os.ErrDeadlineExceeded
	case err == nil && n == 0:
		return 0, windows.WSAECONNRESET
	}
	return n, err
}

func (e *end) Write(text []byte) (int, error) {
	buffer := windows.WSABuf{Len: uint32(len(text)), Buf: &text[0]}
	var sent uint32
	err := windows.WSASend(e.socket, &buffer, 1, &sent, 0, nil, nil)
	return int(sent), err
}

func (e *end) Close() error { return windows.Closesocket(e.socket) }

// receive blocks or not as the socket does; 0 bytes = the other side closed.
func receive(socket windows.Handle, into []byte) (int, error) {
	buffer := windows.WSABuf{Len: uint32(len(into)), Buf: &into[0]}
	var got, flags uint32
	err := windows.WSARecv(socket, &buffer, 1, &got, &flags, nil, nil)
	return int(got), err
}
