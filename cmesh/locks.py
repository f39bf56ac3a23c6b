"""A lock file that one process holds, and that names its holder.

The lock is flock(2)'s, so it ends with the process, however that ends. What it
protects, and what its absence means, is the caller's.
"""

import fcntl
import os
from pathlib import Path

__all__ = ["FileLock", "Held"]

_HOLDER_BYTES = 32


class Held(Exception):
    """Raised when another holder has the lock; the message says who."""


class FileLock:
    """An advisory lock on a file that is made when there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            Held: another process, or another lock of this one, has it.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise Held(f"process {holder}" if holder.isdigit() else "another process") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; harmless without it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
