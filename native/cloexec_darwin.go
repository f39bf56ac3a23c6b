package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// macOS sets close-on-exec in a second call; Go's fork lock keeps Go's own
// children from inheriting the descriptor in between.

func cloexecSocketpair() ([2]int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	return fds, err
}

func recvCloexec(fd int, record, rights []byte) (n, oobn int, err error) {
	n, oobn, _, _, err = unix.Recvmsg(fd, record, rights, unix.MSG_WAITALL)
	if err != nil {
		return n, oobn, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, passed := range fds {
			unix.CloseOnExec(passed)
		}
	}
	return n, oobn, err
}
