"""One stream of an agent's output, from a pipe into a file. Standard library only."""

import os

__all__ = ["CHUNK_BYTES", "Spool"]

CHUNK_BYTES = 65536


class Spool:
    """A pipe whose writing end an agent gets, and a file of at most `limit` bytes.

    Bytes beyond the limit, or after a write error, are counted and dropped: the agent is
    never blocked by them. `digest` covers what is kept.

    Attributes:
        source: the reading end, not blocking.
        sink: the writing end; there before the file, so that a process can be forked with it.
        total: bytes the agent wrote.
        kept: bytes of them in the file.
        tail: the last of them, for a spool that has no file.
        error: why bytes below the limit were dropped.
    """

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()
        os.set_blocking(self.source, False)
        self.limit = self.kept = 0
        self.total: int = 0
        self.tail = b""
        self.error = ""
        self.digest = SHA256()
        self._file = -1
        self._twins: list[Spool] = []

    def open(self, path: str, limit: int) -> None:
        """Make the file; before that nothing is kept."""
        self.limit = limit
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def renew(self) -> None:
        """Make another pipe in the place of one that has ended; the file goes on."""
        os.close(self.source)
        self.source, self.sink = os.pipe()
        os.set_blocking(self.source, False)

    def keep_tail(self, limit: int) -> "Spool":
        """Keep the last `limit` bytes, in memory; return a spool that writes into the same pipe."""
        self.limit, other = limit, Spool()
        os.dup2(self.sink, other.sink, inheritable=False)
        os.close(other.source)
        self._twins.append(other)
        return other

    def pump(self) -> int:
        """Move one chunk; return its size, 0 = end of stream, -1 = nothing there now."""
        try:
            data = os.read(self.source, CHUNK_BYTES)
        except BlockingIOError:
            return -1
        self.total += len(data)
        if self._twins:
            self.tail = (self.tail + data)[-self.limit :]
            return len(data)
        room = data[: self.limit - self.kept] if not self.error else b""
        while room:
            try:
                done = os.write(self._file, room)
            except OSError as error:
                self.error = error.strerror or type(error).__name__
                break
            self.digest.update(room[:done])
            self.kept += done
            room = room[done:]
        return len(data)

    def close_sink(self) -> None:
        """Close this side's copies of the writing end, so that the end of stream can come."""
        for spool in (self, *self._twins):
            os.close(spool.sink)


def _find_sha256():  # noqa: ANN202 - a private type of the standard library
    # `hashlib` would load OpenSSL: 3 MB in every shim.
    for name in ("_sha2", "_sha256"):
        try:
            return __import__(name).sha256
        except ImportError:
            continue
    return __import__("hashlib").sha256


SHA256 = _find_sha256()
