"""Who connected, by SO_PEERCRED (unix(7))."""

import errno
import socket
import struct

__all__ = ["of_peer"]

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid


def of_peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process that connected.

    Raises:
        OSError: the kernel does not say.
    """
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:  # another Unix, which has a way of its own
        raise OSError(errno.ENOTSUP, "this platform does not say who opened a local connection")
    raw = connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(raw)
    return pid, uid
