"""Who connected to a socket: Windows does not say, so nobody is let in by one."""

import errno
import socket

__all__ = ["of_peer"]


def of_peer(connection: socket.socket) -> tuple[int, int]:
    """Refuse to say.

    Raises:
        OSError: always.
    """
    del connection
    raise OSError(errno.ENOTSUP, "Windows does not say who opened a local connection")
