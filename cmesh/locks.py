"""A lock file that one process holds, and that names its holder.

The lock is the system's, so it ends with the process, however that ends. What it
protects, and what its absence means, is the caller's.
"""

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path

from cmesh.platform import locks

__all__ = ["FileLock", "Held", "holder", "is_locked", "shared"]

_HOLDER_BYTES = 32
_POLL_S = 0.02


class Held(Exception):
    """Raised when another holder has the lock; the message says who."""


def is_locked(path: str | Path) -> bool:
    """Say whether some process holds a lock on the file; False without the file."""
    try:
        with shared(path):
            return False
    except Held:
        return True


def holder(path: Path) -> int | None:
    """Return the process that has a `FileLock` on the file now; None = none, or not known.

    What the file says counts while the lock is held only: a pid that was left there may be
    another process's by now.
    """
    try:
        with shared(path):
            return None
    except Held as held:
        pid = str(held).rpartition(" ")[2]
        return int(pid) if pid.isdigit() else None


@contextlib.contextmanager
def shared(path: str | Path) -> Generator[None]:
    """Keep a lock file from being locked meanwhile; without the file there is nothing to keep.

    Raises:
        Held: somebody has locked it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        locks.lock_shared(fd)
    except BlockingIOError as error:
        held = Held(_holder(fd))
        os.close(fd)
        raise held from error
    try:
        yield
    finally:
        _give_back(fd)


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
            locks.lock(fd)
        except BlockingIOError as error:
            holder = _holder(fd)
            os.close(fd)
            raise Held(holder) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def acquire_within(self, limit_s: float) -> None:
        """Take the lock once who has it gives it back, or ends. Blocks up to `limit_s`.

        Raises:
            Held: somebody has it all the time.
        """
        for left in reversed(range(1 + round(limit_s / _POLL_S))):
            try:
                self.acquire()
            except Held:
                if not left:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def release(self) -> None:
        """Give the lock back; harmless without it."""
        if self._fd >= 0:
            _give_back(self._fd)
            self._fd = -1


def _give_back(fd: int) -> None:
    # INVARIANT: not by closing alone: a child between fork and exec has the file open too, and
    # the lock would last until it has none (flock(2)).
    locks.unlock(fd)
    os.close(fd)


def _holder(fd: int) -> str:
    holder = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
    return f"process {holder}" if holder.isdigit() else "another process"
