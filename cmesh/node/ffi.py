"""The one importer of the extension: handles, buffers and error codes become Python.

Every function blocks; callers put the ones that may wait into threads. Nothing
here knows asyncio, and no C pointer leaves this file.
"""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from cmesh._native import ffi, lib
from cmesh.errors import (
    IdentityUnknown,
    KeyExpired,
    NodeClosed,
    NodeError,
    PeerUnreachable,
    UnknownPeer,
)

__all__ = [
    "Cancelled",
    "Handle",
    "Operation",
    "Refused",
    "accept",
    "allow_loopback_only",
    "counters",
    "set_memory_limit",
    "version",
]

_FIRST_BUFFER_BYTES = 16 * 1024
_ADDRESS_BYTES = 64  # what cmesh_accept asks for
_LONGEST_MS = 2**31 - 1  # a C int


class Refused(PeerUnreachable):
    """Raised when a peer is there, and nobody listens on the port."""


_ERRORS: dict[int, type[NodeError]] = {
    errno.EBADF: NodeClosed,
    errno.ENOENT: UnknownPeer,
    errno.ETIMEDOUT: PeerUnreachable,
    errno.ECONNREFUSED: Refused,
    getattr(errno, "EKEYREJECTED", errno.EACCES): KeyExpired,
}

_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603 - the child of a fork has no Go threads left
    _forked = True


if hasattr(os, "register_at_fork"):  # where there is `fork`
    os.register_at_fork(after_in_child=_after_fork)


class Cancelled(NodeError):
    """Raised when another thread cancelled the operation."""

    code = "cancelled"


class Operation:
    """A native call that another thread may cancel. Close it after the call returned."""

    def __init__(self) -> None:
        _require_no_fork()
        self._op = lib.cmesh_op_new()

    @property
    def number(self) -> int:
        """What the native call is given."""
        return self._op

    def cancel(self) -> None:
        """End the call; it raises `Cancelled` soon after."""
        lib.cmesh_op_cancel(self._op)

    def close(self) -> None:
        """Free the operation."""
        lib.cmesh_op_close(self._op)


class Handle:
    """One native node. Methods raise `NodeError`s, `NodeClosed` once it is closed."""

    def __init__(self) -> None:
        _require_no_fork()
        self._sd = lib.tailscale_new()
        if self._sd < 1:
            raise NodeError("the native node could not be made")

    def configure(self, name: str, value: str | int) -> None:
        """Set an option by the name of its C function, before the start."""
        _require_no_fork()
        function: Callable[[int, bytes | int], int] = getattr(lib, name)
        self._check(function(self._sd, _c_text(value) if isinstance(value, str) else value))

    def start(self) -> None:
        """Start the node; does not wait for the tailnet."""
        _require_no_fork()
        self._check(lib.tailscale_start(self._sd))

    def up(self) -> None:
        """Block until the node runs, its login fails, or it is closed."""
        _require_no_fork()
        self._check(lib.tailscale_up(self._sd))

    def close(self) -> None:
        """End the node and everything that waits on it."""
        _require_no_fork()
        self._check(lib.tailscale_close(self._sd))

    def listen(self, address: str) -> int:
        """Listen on `:port` or `ip:port` of the tailnet; returns the listener's descriptor."""
        _require_no_fork()
        out = ffi.new("int *", -1)
        self._check(lib.tailscale_listen(self._sd, b"tcp", _c_text(address), out))
        return int(out[0])

    def dial(self, peer: str, port: int, timeout_s: float, op: Operation) -> socket.socket:
        """Connect to a known peer; returns a non-blocking stream socket."""
        out = ffi.new("int *", -1)
        _text(
            lib.cmesh_dial, self._sd, _c_text(peer), port, _milliseconds(timeout_s), op.number, out
        )
        return _socket(int(out[0]))

    def ping(self, peer: str, timeout_s: float, op: Operation) -> str:
        """Return the JSON of `cmesh_ping`."""
        return _text(lib.cmesh_ping, self._sd, _c_text(peer), _milliseconds(timeout_s), op.number)

    def whois(self, address: str) -> str:
        """Return the JSON of `cmesh_whois`.

        Raises:
            IdentityUnknown: nobody has the address, or it cannot be told who.
        """
        try:
            return _text(lib.cmesh_whois, self._sd, _c_text(address))
        except NodeClosed:
            raise
        except NodeError as error:
            raise IdentityUnknown(error.message) from error

    def status(self) -> str:
        """Return the JSON of `cmesh_status`."""
        return _text(lib.cmesh_status, self._sd)

    def peers(self) -> str:
        """Return the JSON of `cmesh_peers`."""
        return _text(lib.cmesh_peers, self._sd)

    def login(self) -> None:
        """Begin an interactive login; its URL arrives as a notification."""
        _text(lib.cmesh_login, self._sd)

    def logout(self) -> None:
        """End the node key at the control server."""
        _text(lib.cmesh_logout, self._sd)

    def watch(self) -> socket.socket:
        """Open the stream of notifications: JSON lines on a non-blocking socket."""
        out = ffi.new("int *", -1)
        _text(lib.cmesh_watch, self._sd, out)
        return _socket(int(out[0]))

    def _check(self, code: int) -> None:
        if code == 0:
            return
        if code == errno.EBADF:
            raise NodeClosed("the node is closed")
        size = _FIRST_BUFFER_BYTES
        buffer = ffi.new("char[]", size)
        if lib.tailscale_errmsg(self._sd, buffer, size) != 0:
            raise NodeClosed("the node was closed")
        raise NodeError(ffi.string(buffer).decode("utf-8", "replace"))


def accept(listener: int) -> tuple[socket.socket, str]:
    """Take a connection and its remote `ip:port` from a non-blocking listener.

    Raises:
        BlockingIOError: nothing is waiting.
        NodeClosed: the listener or its node was closed.
    """
    _require_no_fork()
    fd = ffi.new("int *", -1)
    address = ffi.new("char[]", _ADDRESS_BYTES)
    code = lib.cmesh_accept(listener, fd, address, _ADDRESS_BYTES)
    if code in (errno.EAGAIN, errno.EWOULDBLOCK):
        raise BlockingIOError(code, os.strerror(code))
    if code == errno.EBADF:
        raise NodeClosed("the listener is closed")
    if code != 0:
        raise NodeError(f"accept failed: {os.strerror(code) if code > 0 else 'internal error'}")
    return _socket(int(fd[0])), ffi.string(address).decode("ascii")


def counters() -> str:
    """Return the JSON of `cmesh_counters`: what is alive in the whole process."""
    return _text(lib.cmesh_counters)


def set_memory_limit(limit_bytes: int) -> None:
    """Set the soft limit of the Go heap, process-wide. 128 MiB unless set."""
    _require_no_fork()
    if lib.cmesh_set_memory_limit(limit_bytes) != 0:
        raise NodeError(f"`{limit_bytes}` is no memory limit")


def allow_loopback_only() -> None:
    """Let this process's nodes meet on loopback, for good; before the first node.

    Raises:
        NodeError: a node exists already.
    """
    _require_no_fork()
    if lib.cmesh_allow_loopback_only() != 0:
        raise NodeError("loopback-only mode must be chosen before the first node")


def version() -> str:
    """Return the version of the Tailscale code inside."""
    return ffi.string(lib.cmesh_version()).decode("ascii")


def _text(function: Callable[..., int], *args: Any) -> str:
    """Call a function that answers in text, with a buffer that is large enough."""
    _require_no_fork()
    size = _FIRST_BUFFER_BYTES
    while True:
        buffer, needed = ffi.new("char[]", size), ffi.new("size_t *", 0)
        code = function(*args, buffer, size, needed)
        if code == errno.ERANGE and int(needed[0]) > size:
            size = int(needed[0]) * 2  # netmaps grow between two calls
            continue
        text = ffi.string(buffer).decode("utf-8", "replace")
        if code == 0:
            return text
        if code == errno.ECANCELED:
            raise Cancelled(text)
        raise _ERRORS.get(code, NodeError)(text)


def _c_text(text: str) -> bytes:
    """Encode a text as C takes it: paths keep their bytes, and a NUL must not cut it short."""
    if "\0" in text:
        raise NodeError("a text with a NUL character cannot be passed on")
    return text.encode("utf-8", "surrogateescape")


def _milliseconds(timeout_s: float) -> int:
    return int(max(1.0, min(timeout_s * 1000, _LONGEST_MS)))


def _socket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.settimeout(0)
    return sock


def _require_no_fork() -> None:
    if _forked:
        raise NodeClosed(
            "a tailnet node cannot be used after `fork`", hint="start processes with exec"
        )
