package localpair

import (
	"context"
	"net"
	"syscall"
)

// ExclusiveAddress is Winsock's SO_EXCLUSIVEADDRUSE: without it a later socket
// may take the same port, and its connections.
const ExclusiveAddress = ^syscall.SO_REUSEADDR

func listen() (*net.TCPListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var refused error
		err := raw.Control(func(socket uintptr) {
			refused = syscall.SetsockoptInt(
				syscall.Handle(socket), syscall.SOL_SOCKET, ExclusiveAddress, 1)
		})
		if err != nil {
			return err
		}
		return refused
	}}
	listener, err := config.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}
