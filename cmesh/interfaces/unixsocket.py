"""The local transport on Unix: a socket file that only its owner can use, and who connects.

Another platform gets its own file with these two functions. Nothing here
speaks the control protocol.
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cmesh.errors import IdentityUnknown
from cmesh.paths import ensure_private_dir
from cmesh.platform import credentials

__all__ = ["Credentials", "bind_private", "peer_credentials"]

_PRIVATE_UMASK = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The process that made a connection, as the kernel recorded it at connect time."""

    pid: int
    uid: int


def bind_private(path: Path) -> socket.socket:
    """Bind a stream socket at `path`, mode 0600, replacing a stale one; the caller owns it.

    It is bound under another name and renamed, so that `path` never names a
    socket that is open to others or not yet listening. The caller holds the
    state directory's lock: a socket found at `path` is a dead daemon's.

    Raises:
        UnsafePermissions: the directory is open to others.
        OSError: the path is too long, or the disk refuses.
    """
    ensure_private_dir(path.parent)
    # Shorter than `.sock`, so it fits in sun_path whenever the final name does.
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(_PRIVATE_UMASK)
    try:
        listener.bind(os.fspath(fresh))
        fresh.chmod(0o600)
        listener.listen()
        fresh.replace(path)
    except BaseException:
        listener.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    finally:
        os.umask(before)
    return listener


def peer_credentials(connection: socket.socket) -> Credentials:
    """Return who is at the other end.

    Raises:
        IdentityUnknown: the platform or the socket cannot say.
    """
    try:
        pid, uid = credentials.of_peer(connection)
    except OSError as error:
        raise IdentityUnknown(f"the kernel does not say who connected: {error}") from error
    return Credentials(pid=pid, uid=uid)
