//go:build unix

package localpair

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// short ends what nobody answers; enough for what somebody does.
const short = 300 * time.Millisecond

// boundEnd is an End as Windows has it: a socket of its own, bound first.
type boundEnd struct {
	fd   int
	at   netip.AddrPort
	conn net.Conn // once connected
}

func bind(t *testing.T) *boundEnd {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	inet := at.(*unix.SockaddrInet4)
	end := &boundEnd{fd: fd, at: netip.AddrPortFrom(netip.AddrFrom4(inet.Addr), uint16(inet.Port))}
	t.Cleanup(func() { end.Close() })
	return end
}

func (e *boundEnd) Addr() netip.AddrPort { return e.at }

func (e *boundEnd) Connect(to netip.AddrPort, deadline time.Time) error {
	if err := unix.Connect(e.fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return err
	}
	f := os.NewFile(uintptr(e.fd), "end")
	e.fd = -1
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	e.conn = conn
	return conn.SetDeadline(deadline)
}

func (e *boundEnd) Joined() error               { return e.conn.SetDeadline(time.Time{}) }
func (e *boundEnd) Read(b []byte) (int, error)  { return e.conn.Read(b) }
func (e *boundEnd) Write(b []byte) (int, error) { return e.conn.Write(b) }

func (e *boundEnd) Close() error {
	if e.conn != nil {
		return e.conn.Close()
	}
	if e.fd >= 0 {
		unix.Close(e.fd)
		e.fd = -1
	}
	return nil
}

func echoes(t *testing.T, a, b io.ReadWriter) {
	t.Helper()
	for _, way := range [][2]io.ReadWriter{{a, b}, {b, a}} {
		if _, err := way[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(way[1], got); err != nil || string(got) != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestAPairCarriesBothWaysAndNothingElse(t *testing.T) {
	end := bind(t)
	ours, err := New(end, Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	echoes(t, ours, end)
	end.Close()
	if rest, err := io.ReadAll(ours); err != nil || len(rest) > 0 {
		t.Errorf("after the close: %q, %v", rest, err)
	}
}

// early connects strangers before the end does what it would have done.
type early struct {
	*boundEnd
	strangers int
	say       []byte
	t         *testing.T
}

func (e early) Connect(to netip.AddrPort, deadline time.Time) error {
	for range e.strangers {
		conn, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		e.t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write(e.say); err != nil {
			return err
		}
	}
	return e.boundEnd.Connect(to, deadline)
}

func TestStrangersThatComeFirstAreTurnedAwayAndDelayNobody(t *testing.T) {
	for _, say := range [][]byte{nil, bytes.Repeat([]byte{'x'}, 32), []byte("x")} {
		end := early{boundEnd: bind(t), strangers: 20, say: say, t: t}
		ours, err := New(end, Limit) // one that was waited for would use it up
		if err != nil {
			t.Fatalf("after strangers that say %q: %v", say, err)
		}
		echoes(t, ours, end)
		ours.Close()
	}
}

// altered is an end whose proof is another than it should be.
type altered struct {
	*boundEnd
	alter func([]byte) []byte
}

func (e altered) Write(b []byte) (int, error) {
	if _, err := e.boundEnd.Write(e.alter(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func TestTheRightAddressWithTheWrongSecretIsAStranger(t *testing.T) {
	end := altered{bind(t), func(b []byte) []byte { return make([]byte, len(b)) }}
	if _, err := New(end, Limit); !errors.Is(err, ErrStranger) {
		t.Errorf("joined, or another error: %v", err)
	}
	if _, err := end.conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the end is still open: %v", err)
	}
}

func TestAnEndThatNeverSpeaksIsGivenUpAtTheLimit(t *testing.T) {
	for _, said := range []int{0, 31} {
		end := altered{bind(t), func(b []byte) []byte { return b[:said] }}
		_, err := New(end, short)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %d bytes: %v", said, err)
		}
	}
}

// diverted connects to somebody else than the listener.
type diverted struct {
	*boundEnd
	to netip.AddrPort
}

func (e diverted) Connect(_ netip.AddrPort, deadline time.Time) error {
	return e.boundEnd.Connect(e.to, deadline)
}

func squat(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	squatter, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { squatter.Close() })
	go func() {
		conn, err := squatter.Accept()
		if err == nil {
			serve(conn)
		}
	}()
	return squatter.Addr().(*net.TCPAddr).AddrPort()
}

func TestASquatterThatAnswersProvesNothing(t *testing.T) {
	at := squat(t, func(conn net.Conn) {
		got := make([]byte, 32)
		_, _ = io.ReadFull(conn, got)
		_, _ = conn.Write(got) // the end's own proof, sent back
	})
	if _, err := New(diverted{bind(t), at}, Limit); !errors.Is(err, ErrStranger) {
		t.Errorf("joined, or another error: %v", err)
	}
}

func TestASquatterThatHangsUpOrIsSilentIsNoEnd(t *testing.T) {
	for _, serve := range []func(net.Conn){func(c net.Conn) { c.Close() }, func(net.Conn) {}} {
		began := time.Now()
		if ours, err := New(diverted{bind(t), squat(t, serve)}, short); err == nil {
			ours.Close()
			t.Error("joined")
		}
		if waited := time.Since(began); waited > Limit {
			t.Errorf("given up after %s", waited)
		}
	}
}

func TestAProofThatSomebodyBetweenPassedOnIsRefused(t *testing.T) {
	var s secret
	listener, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	real := listener.Addr().(*net.TCPAddr).AddrPort()
	between, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(real))
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	end := netip.MustParseAddrPort("127.0.0.1:1")
	if _, err := between.Write(s.proof(connector, end, real)); err != nil {
		t.Fatal(err)
	}
	// The address filter is left out: the proof must be enough.
	from := between.LocalAddr().(*net.TCPAddr).AddrPort()
	if _, err := s.admit(listener, from, time.Now().Add(Limit)); !errors.Is(err, ErrStranger) {
		t.Errorf("admitted, or another error: %v", err)
	}
}

func TestEachPartAndPairHasAProofOfItsOwn(t *testing.T) {
	a, b := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")
	var one, two secret
	two[0] = 1
	all := [][]byte{
		one.proof(connector, a, b), one.proof(acceptor, a, b), one.proof(connector, b, a),
		two.proof(connector, a, b),
	}
	for i := range all {
		for j := range i {
			if bytes.Equal(all[i], all[j]) {
				t.Errorf("proofs %d and %d are the same", i, j)
			}
		}
	}
}

func TestWhatCannotConnectTellsWhyAtOnce(t *testing.T) {
	nobody, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	at := nobody.Addr().(*net.TCPAddr).AddrPort()
	nobody.Close()
	if _, err := New(diverted{bind(t), at}, Limit); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("joined, or another error: %v", err)
	}
}
