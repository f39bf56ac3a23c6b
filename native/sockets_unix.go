//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pair is a stream socket pair: one end for Go's poller, one descriptor for C.
type pair struct {
	ours   *net.UnixConn
	theirs int
	key    socketKey // of theirs
}

// socketKey names a socket independently of descriptor numbers, so a duplicate
// is recognised and a reused number is not.
type socketKey struct{ dev, ino uint64 }

func newPair() (pair, error) {
	fds, err := cloexecSocketpair()
	if err != nil {
		return pair{}, fmt.Errorf("socketpair: %w", err)
	}
	key, err := keyOf(fds[1])
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return pair{}, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return pair{}, fmt.Errorf("nonblock: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "tailnet")
	defer f.Close()
	conn, err := net.FileConn(f) // duplicates, close-on-exec
	if err != nil {
		unix.Close(fds[1])
		return pair{}, err
	}
	return pair{ours: conn.(*net.UnixConn), theirs: fds[1], key: key}, nil
}

func keyOf(fd int) (socketKey, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return socketKey{}, fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return socketKey{}, unix.ENOTSOCK
	}
	return socketKey{uint64(st.Dev), uint64(st.Ino)}, nil
}

// waitHangup returns when C has closed its end altogether, not on SHUT_WR.
func waitHangup(p pair) {
	raw, err := p.ours.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd)}}
		_, _ = unix.Poll(polled, 0)
		return polled[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
}

// offer passes a connection's descriptor and remote address to the listener's
// other end. It blocks while nobody accepts and the socket's buffer is full.
// Afterwards the acceptor has the only reference, or nobody has.
func offer(listener, connection pair, remote string) error {
	defer unix.Close(connection.theirs)
	if len(remote) >= recordSize {
		return fmt.Errorf("remote address `%s` is too long", remote)
	}
	var record [recordSize]byte
	copy(record[:], remote)
	_, _, err := listener.ours.WriteMsgUnix(record[:], unix.UnixRights(connection.theirs), nil)
	return err
}

// withdraw ends what was offered and not taken: the kernel does, with the socket.
func withdraw(pair) {}

// take receives what offer sent. Blocking is up to the descriptor's mode.
func take(listener int) (fd int, remote string, err error) {
	var record [recordSize]byte
	rights := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		n, oobn, err = recvCloexec(listener, record[:], rights)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return -1, "", err
	}
	if n == 0 {
		return -1, "", errListenerClosed
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, "", fmt.Errorf("the listener sent no descriptor: %w", unix.EBADMSG)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, "", fmt.Errorf("the listener sent no descriptor: %w", unix.EBADMSG)
	}
	return fds[0], unix.ByteSliceToString(record[:]), nil
}

// numberOf keeps the kernel's number.
func numberOf(errno syscall.Errno) int { return int(errno) }

// duplicate returns a file of our own for a descriptor of the caller's.
func duplicate(fd int) (*os.File, error) {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), "log"), nil
}
