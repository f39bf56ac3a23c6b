"""Who connected, by LOCAL_PEERCRED and LOCAL_PEERPID (sys/un.h of macOS, unix(4))."""

import errno
import socket
import struct

__all__ = ["of_peer"]

_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2
# struct xucred of sys/ucred.h: version, uid, number of groups, padding, 16 groups.
_XUCRED = struct.Struct("=IIhxx16I")
_XUCRED_VERSION = 0
_PID = struct.Struct("=i")


def of_peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process that connected.

    Raises:
        OSError: the kernel does not say, or says it in another form.
    """
    raw = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
    if len(raw) != _XUCRED.size:
        raise OSError(errno.EPROTO, "LOCAL_PEERCRED has another length")
    version, uid = _XUCRED.unpack(raw)[:2]
    if version != _XUCRED_VERSION:
        raise OSError(errno.EPROTO, f"LOCAL_PEERCRED has version {version}")
    (pid,) = _PID.unpack(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, _PID.size))
    return pid, uid
