//go:build unix

package localpair

import "net"

// listen is for the tests: a Unix system has socketpair(2), and cmesh uses that.
func listen() (*net.TCPListener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
}
