"""Kept outputs on their way from workers: asked for, checked, stored under their hash.

What does not come as it was announced is not taken; the end it belongs to still is.
"""

import contextlib
import logging
import tempfile
from pathlib import Path

from cmesh.errors import DiskFull, RemoteProtocolError
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.convert import inline_output
from cmesh.protocol.messages import Artifact, ResultMessage
from cmesh.protocol.transfer import Assembler
from cmesh.store.store import Store

__all__ = ["Outputs"]

logger = logging.getLogger(__name__)


class Outputs:
    """The transfers of all tasks; one a task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fetches: dict[TaskId, _Fetch] = {}
        self._refused: dict[TaskId, str] = {}

    def refused(self, task_id: TaskId) -> str:
        """Return why a task's output is not taken; empty = nothing stands against it."""
        return self._refused.get(task_id, "")

    def forget(self, task_id: TaskId) -> None:
        """The end of a task is stored; nothing of its output is expected any more."""
        self._refused.pop(task_id, None)
        self.drop(task_id)

    def drop(self, task_id: TaskId) -> None:
        """End a transfer; it may be asked for again."""
        fetch = self._fetches.pop(task_id, None)
        if fetch is not None:
            fetch.close()

    def close(self) -> None:
        """End every transfer."""
        for task_id in list(self._fetches):
            self.drop(task_id)

    async def ready(self, link: Link, message: ResultMessage, limit_bytes: int) -> bool:
        """Return whether a result can be stored; False = its output was asked for.

        Raises:
            DiskFull: there is no room for the output.
        """
        task_id, outcome = TaskId(message.task_id), message.outcome
        if task_id in self._refused or not outcome.output_sha256:
            return True
        if self._store.blob_path(outcome.output_sha256) is not None:
            return True
        try:
            data = inline_output(outcome)
            if data is not None:
                await self._store.blob(data)
                return True
            if task_id not in self._fetches:
                self._fetches[task_id] = _Fetch(message, limit_bytes, self._store.incoming)
                link.post(Artifact(task_id=task_id, sha256=outcome.output_sha256, offset=0))
        except RemoteProtocolError as error:
            self._refuse(task_id, error)
            return True
        return False

    async def take(self, chunk: Chunk) -> ResultMessage | None:
        """Take a chunk; return the result whose output is now whole.

        Raises:
            RemoteProtocolError: the bytes are not those announced; the output is refused.
            DiskFull: there is no room; the transfer has ended.
        """
        fetch = self._fetches.get(chunk.task_id)
        if fetch is None:
            return None  # of a transfer that has ended meanwhile
        try:
            if not fetch.add(chunk):
                return None
            await self._store.blob(fetch.close_whole())
        except RemoteProtocolError as error:
            self._refuse(chunk.task_id, error)
            raise
        except DiskFull:
            self.drop(chunk.task_id)
            raise
        self.drop(chunk.task_id)
        return fetch.message

    def pending(self, task_id: TaskId) -> ResultMessage | None:
        """Return the result whose output is on its way."""
        fetch = self._fetches.get(task_id)
        return fetch.message if fetch else None

    def _refuse(self, task_id: TaskId, error: RemoteProtocolError) -> None:
        self._refused[task_id] = f"its output was not taken: {error.message}"
        data = {"task": task_id, "code": error.code, "why": error.message}
        logger.warning("output_refused", extra={"data": data})


class _Fetch:
    """One output; the result it belongs to waits here until the bytes are stored."""

    def __init__(self, message: ResultMessage, limit_bytes: int, directory: Path) -> None:
        outcome = message.outcome
        self.message = message
        self._assembler = Assembler(
            TaskId(message.task_id), outcome.output_sha256, outcome.output_kept, limit_bytes
        )
        try:
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by `close`
                prefix="incoming-", dir=directory, delete=False
            )
        except OSError as error:
            raise _no_room(error) from error

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk; True when the output is whole.

        Raises:
            RemoteProtocolError: the bytes are not those announced.
            DiskFull: there is no room.
        """
        try:
            self._file.write(self._assembler.add(chunk))
        except OSError as error:
            raise _no_room(error) from error
        return self._assembler.done

    def close_whole(self) -> Path:
        """Return the file with all bytes in it.

        Raises:
            DiskFull: there is no room for the last of them.
        """
        try:
            self._file.close()
        except OSError as error:
            raise _no_room(error) from error
        return Path(self._file.name)

    def close(self) -> None:
        """Remove what is left on disk."""
        with contextlib.suppress(OSError):  # what was still buffered is not wanted
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


def _no_room(error: OSError) -> DiskFull:
    return DiskFull(f"no room for an output: {error.strerror}")
