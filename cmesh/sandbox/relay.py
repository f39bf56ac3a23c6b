"""Hands a task's connections to the daemon, out of a network namespace that has only `lo`.

It listens on one loopback port there. Each connection it accepts goes to the daemon as a
descriptor (SCM_RIGHTS, unix(7)) in one datagram, by a name in an inherited directory: the file
system view of the namespace does not matter, and the next daemon that binds the name serves the
next connection. So it never reads or holds a byte of a task, and half-close is the kernel's own.
Standard library only; the task's start waits for `_socket` and not for the slower `socket`.
"""

import _socket
import ctypes
import os
import resource
import select
import signal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import NoReturn

__all__ = ["start"]

LOOPBACK = "127.0.0.1"
BACKLOG = 128
"""Connections that wait in the kernel while one is handed over; more are refused by it."""

DAEMON_LIMIT_S = 30.0
"""How long a connection waits for a daemon that is gone or does not read, as in a restart."""

RETRY_PAUSE_S = 0.05
DESCRIPTORS = 64

PR_SET_DUMPABLE = 4  # linux/prctl.h


def start(port: int, directory: int, name: str) -> None:
    """Start the relay in this network namespace; it listens when this returns.

    To be called by the process that becomes the agent, with one thread, before it confines
    itself: the relay ends when this process does, through any exec. It is no child of this
    process, which may wait for all its children. `directory` is a descriptor of the directory
    of the daemon's socket (O_PATH will do) and stays the caller's; `name` is the socket's there.

    Raises:
        OSError: it cannot listen or start; then the task must not start either.
    """
    owner = os.pidfd_open(os.getpid())
    try:
        listener = _listen(port)
        try:
            middle = os.fork()
            if middle == 0:
                _detach(listener, owner, directory, name)
            _pid, status = os.waitpid(middle, 0)
        finally:
            listener.close()
    finally:
        os.close(owner)
    if status != 0:
        raise OSError("the relay of the task's network could not be started")


def _listen(port: int) -> "_socket.socket":
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(BACKLOG)
        # A client may be gone before it is accepted; that must not stop the loop.
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _detach(listener: "_socket.socket", owner: int, directory: int, name: str) -> "NoReturn":
    """Fork the relay and end, so that its parent is whoever reaps orphans."""
    status = 1
    try:
        os.setsid()
        if os.fork() == 0:
            _be_relay(listener, owner, directory, name)
        status = 0
    finally:
        os._exit(status)


def _be_relay(bound: "_socket.socket", owner: int, directory: int, name: str) -> "NoReturn":
    status = 1
    try:
        from socket import AF_UNIX, SOCK_DGRAM, socket  # nobody waits for it any more

        # INVARIANT: a task in the same PID namespace must not get at the directory, the only
        # thing of the host that is held here, by /proc or ptrace (proc(5), ptrace(2)).
        if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0:
            os.fchdir(directory)
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(signum, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # Whoever waits for the end of the task's output must not wait for the relay.
            _close_all_but({bound.fileno(), owner})
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            post = socket(AF_UNIX, SOCK_DGRAM)
            post.setblocking(False)
            _serve(socket(fileno=bound.detach()), owner, post, name)
            status = 0
    finally:
        os._exit(status)


def _serve(listener: "socket", owner: int, post: "socket", name: str) -> None:
    """Hand over one connection after the other until the owner has ended."""
    poll, ended = select.poll(), select.poll()
    poll.register(listener, select.POLLIN)
    for each in (poll, ended):
        each.register(owner, select.POLLIN)
    limit_s = DAEMON_LIMIT_S
    while not any(fd == owner for fd, _event in poll.poll()):
        try:
            connection, _address = listener.accept()
        except OSError:
            ended.poll(RETRY_PAUSE_S * 1000)  # the machine has no descriptor left, perhaps
            continue
        with connection:
            handed = _hand_over(post, connection.fileno(), name, ended, limit_s)
        # Once a daemon was waited for in vain, each connection gets one try until one is there.
        limit_s = DAEMON_LIMIT_S if handed else 0.0


def _hand_over(
    post: "socket", connection: int, name: str, ended: "select.poll", limit_s: float
) -> bool:
    """Give the daemon a connection; False when it took none in time, or the owner has ended."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", connection))]
    tries = 1 + int(limit_s / RETRY_PAUSE_S)
    for left in reversed(range(tries)):
        try:
            post.sendmsg([b"c"], rights, 0, name)
        except OSError:  # no such socket, nobody at it, or its queue is full
            if left and not ended.poll(RETRY_PAUSE_S * 1000):
                continue
            return False
        return True
    return False


def _close_all_but(keep: set[int]) -> None:
    """Close every other descriptor; the three standard ones lead nowhere from then on."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    low = 3
    for fd in sorted(fd for fd in keep if fd >= low):
        if low < fd:  # an empty range from 0 would close all on Python 3.11
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, max(low, os.sysconf("SC_OPEN_MAX")))
