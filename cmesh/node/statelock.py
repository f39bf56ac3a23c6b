"""One process per node state directory.

Two nodes on one directory both come up with the same key and address, and
each steals the other's traffic without any error, so the lock comes first.
"""

from pathlib import Path

from cmesh.errors import NodeError
from cmesh.locks import FileLock, Held

__all__ = ["StateLock"]


class StateLock:
    """The lock of a node's state directory."""

    def __init__(self, directory: Path) -> None:
        self._lock = FileLock(directory / "node.lock")

    def acquire(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            NodeError: another process, or another node of this one, has the directory.
        """
        try:
            self._lock.acquire()
        except Held as error:
            raise NodeError(
                f"node state `{self._lock.path.parent}` is in use by {error}",
                hint="one node per state directory: stop the other process, or name another one",
            ) from error

    def release(self) -> None:
        """Give the lock back; harmless without it."""
        self._lock.release()
