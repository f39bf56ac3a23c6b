// Package localpair joins two sockets of this process over loopback TCP, for
// systems without a socketpair(2) whose ends may go to others (Windows).
//
// Every user of the machine reaches a loopback port, so each end must know that
// the other one is ours. The connecting end is bound before it connects: whoever
// comes from another address is turned away without being waited for. Then both
// prove that they know a secret of this process, by an HMAC (RFC 2104) over
// their part and both addresses. The secret itself is never sent, and a proof
// that was passed on by somebody between names the wrong addresses.
package localpair

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Limit bounds the joining of a pair; it takes less than a millisecond.
const Limit = 5 * time.Second

// ErrStranger says that what answered does not know the secret.
var ErrStranger = errors.New("the other end of a local connection did not prove that it is ours")

// End is the connecting socket, bound to a loopback address and not connected.
type End interface {
	io.ReadWriteCloser
	// Addr is where it is bound.
	Addr() netip.AddrPort
	// Connect connects it; from then on reads and writes end by the deadline.
	Connect(to netip.AddrPort, deadline time.Time) error
	// Joined takes the deadline away.
	Joined() error
}

// The parts, so that one end's proof is not the other's.
const (
	connector byte = 'c'
	acceptor  byte = 'a'
)

// secret is known to the two ends of one pair.
type secret [sha256.Size]byte

// proof is what the end with a part sends.
func (s secret) proof(part byte, from, to netip.AddrPort) []byte {
	mac := hmac.New(sha256.New, s[:])
	fmt.Fprintf(mac, "cmesh local pair %c %s %s", part, from, to)
	return mac.Sum(nil)
}

// New connects end and returns the other side of it. It blocks, for limit at
// most, and closes end when it fails: ErrStranger, or the network's error.
func New(end End, limit time.Duration) (*net.TCPConn, error) {
	var s secret
	_, _ = rand.Read(s[:]) // ends the process rather than fail
	deadline := time.Now().Add(limit)
	listener, err := listen()
	if err != nil {
		end.Close()
		return nil, err
	}
	defer listener.Close()
	_ = listener.SetDeadline(deadline)
	to := listener.Addr().(*net.TCPAddr).AddrPort()
	connected := make(chan error, 1)
	go func() {
		err := s.connect(end, to, deadline)
		if err != nil {
			listener.Close() // nobody else will come
		}
		connected <- err
	}()
	ours, err := s.admit(listener, end.Addr(), deadline)
	refused := <-connected // soon: it has the same deadline, and hears of a close
	if err == nil && refused == nil {
		return ours, nil
	}
	end.Close()
	if err != nil {
		return nil, first(refused, err)
	}
	ours.Close()
	return nil, refused
}

// first returns what made the other one fail, when both ends did: the accepting
// end tells more, unless it was closed because connecting failed.
func first(connecting, accepting error) error {
	if errors.Is(accepting, net.ErrClosed) {
		return connecting
	}
	return accepting
}

// connect is the connecting end's part.
func (s secret) connect(end End, to netip.AddrPort, deadline time.Time) error {
	if err := end.Connect(to, deadline); err != nil {
		return err
	}
	if _, err := end.Write(s.proof(connector, end.Addr(), to)); err != nil {
		return err
	}
	if err := expect(end, s.proof(acceptor, end.Addr(), to)); err != nil {
		return err
	}
	return end.Joined()
}

// admit waits for the connection that comes from an address, and turns all others away.
func (s secret) admit(listener *net.TCPListener, from netip.AddrPort, deadline time.Time) (*net.TCPConn, error) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if conn.RemoteAddr().(*net.TCPAddr).AddrPort() != from {
			conn.Close()
			continue
		}
		if err := s.meet(conn, from, deadline); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// meet is the accepting end's part.
func (s secret) meet(conn *net.TCPConn, from netip.AddrPort, deadline time.Time) error {
	to := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	_ = conn.SetDeadline(deadline)
	if err := expect(conn, s.proof(connector, from, to)); err != nil {
		return err
	}
	if _, err := conn.Write(s.proof(acceptor, from, to)); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// expect reads a proof and compares it.
func expect(from io.Reader, wanted []byte) error {
	got := make([]byte, len(wanted))
	if _, err := io.ReadFull(from, got); err != nil {
		return err
	}
	if !hmac.Equal(got, wanted) {
		return ErrStranger
	}
	return nil
}
