"""Bytes of a peer on their way: in a file of their own until they are whole and checked."""

import contextlib
import tempfile
from pathlib import Path

from cmesh.errors import DiskFull
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.transfer import Assembler

__all__ = ["Arriving"]


class Arriving:
    """One transfer; whoever begins it closes it.

    Attributes:
        asked: a link that lives was asked for the rest.
    """

    what = "bytes of a peer"
    """What comes, for the error that there is no room for it."""

    def __init__(
        self, task_id: TaskId, sha256: str, size: int, limit_bytes: int, directory: Path
    ) -> None:
        """Begin a file in `directory`.

        Raises:
            RemoteProtocolError: more is announced than is taken.
            DiskFull: there is no room.
        """
        self.asked = False
        self._assembler = Assembler(task_id, sha256, size, limit_bytes)
        try:
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by `close`
                prefix="incoming-", dir=directory, delete=False
            )
        except OSError as error:
            raise self._no_room(error) from error

    @property
    def offset(self) -> int:
        """Return how much of it is here."""
        return self._assembler.offset

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk; True when all is here.

        Raises:
            RemoteProtocolError: the bytes are not those announced.
            DiskFull: there is no room.
        """
        try:
            self._file.write(self._assembler.add(chunk))
        except OSError as error:
            raise self._no_room(error) from error
        return self._assembler.done

    def close_whole(self) -> Path:
        """Return the file with all bytes in it.

        Raises:
            DiskFull: there is no room for the last of them.
        """
        try:
            self._file.close()
        except OSError as error:
            raise self._no_room(error) from error
        return Path(self._file.name)

    def close(self) -> None:
        """Remove what is left on disk."""
        with contextlib.suppress(OSError):  # what was still buffered is not wanted
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)

    def _no_room(self, error: OSError) -> DiskFull:
        return DiskFull(f"no room for {self.what}: {error.strerror}")
