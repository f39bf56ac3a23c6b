package main

import "golang.org/x/sys/unix"

func cloexecSocketpair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

func recvCloexec(fd int, record, rights []byte) (n, oobn int, err error) {
	n, oobn, _, _, err = unix.Recvmsg(fd, record, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
	return n, oobn, err
}
