"""One process per node state directory.

Two nodes on one directory both come up with the same key and address, and
each steals the other's traffic without any error, so the lock comes first.
"""

import fcntl
import os
from pathlib import Path

from cmesh.errors import NodeError

__all__ = ["StateLock"]


class StateLock:
    """An advisory lock (flock) that ends with the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "node.lock"
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            NodeError: another process, or another node of this one, has the directory.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise NodeError(
                f"node state `{self._path.parent}` is in use by {who}",
                hint="one node per state directory: stop the other process, or name another one",
            ) from error
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; harmless without it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
