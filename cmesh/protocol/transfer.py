"""A kept output arriving in chunks: order, size and hash, without touching a file.

Pure. The daemon writes the pieces that come out, and keeps the file only when `done`.
"""

import hashlib

from cmesh.errors import RemoteProtocolError
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk

__all__ = ["Assembler"]


class Assembler:
    """One transfer. Feed it every chunk of the link in order.

    Attributes:
        offset: bytes taken so far; where an interrupted transfer goes on.
        done: the whole output came, and its hash is right.
    """

    def __init__(self, task_id: TaskId, sha256: str, size: int, limit_bytes: int) -> None:
        """Expect `size` bytes, as the signed result announced them.

        Raises:
            RemoteProtocolError: the announced size is above `limit_bytes`.
        """
        if size > limit_bytes:
            raise RemoteProtocolError(
                f"the peer announced an output of {size} bytes, above the limit of {limit_bytes}"
            )
        self.offset = 0
        self.done = False
        self._task_id = task_id
        self._sha256 = sha256
        self._size = size
        self._hash = hashlib.sha256()

    def resume(self, kept: bytes) -> None:
        """Take bytes that an earlier connection brought; ask the peer for the rest."""
        self._hash.update(kept)
        self.offset += len(kept)

    def add(self, chunk: Chunk) -> bytes:
        """Return the data to append to the file.

        Raises:
            RemoteProtocolError: another output, a hole, more than announced, or at the end
                too little or a wrong hash. Drop what was written.
        """
        if (chunk.task_id, chunk.sha256) != (self._task_id, self._sha256):
            raise RemoteProtocolError("the peer sent a chunk of another output")
        if self.done:
            raise RemoteProtocolError("the peer sent a chunk after the final one")
        if chunk.offset != self.offset:
            raise RemoteProtocolError(
                f"the peer sent a chunk at {chunk.offset}, expected {self.offset}"
            )
        if self.offset + len(chunk.data) > self._size:
            raise RemoteProtocolError(f"the peer sent more than the {self._size} bytes announced")
        self._hash.update(chunk.data)
        self.offset += len(chunk.data)
        if chunk.final:
            self._finish()
        return chunk.data

    def _finish(self) -> None:
        if self.offset != self._size:
            raise RemoteProtocolError(
                f"the peer ended the output at {self.offset} of {self._size} bytes"
            )
        if self._hash.hexdigest() != self._sha256:
            raise RemoteProtocolError("the peer sent an output whose hash is wrong")
        self.done = True
