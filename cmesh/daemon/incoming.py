"""Changes of callers on their way to this worker: asked for, checked, stored by their hash.

A task starts only when its bytes are a blob here. What a lost link has brought is kept, and the
next one is asked for the rest; a restart of the daemon asks for all.
"""

import contextlib
import tempfile
from pathlib import Path

from cmesh.daemon.parts import Parts
from cmesh.errors import DiskFull, RemoteProtocolError
from cmesh.model import NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.messages import CHANGES_BYTES, Artifact
from cmesh.protocol.transfer import Assembler
from cmesh.store.records import TaskRecord

__all__ = ["Incoming"]


class Incoming:
    """The transfers of all tasks; one a task."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._transfers: dict[TaskId, _Transfer] = {}

    def ready(self, record: TaskRecord) -> bool:
        """Say whether what a task's caller sends is here; otherwise ask for it, once a link.

        Raises:
            DiskFull: there is no room for it.
        """
        changes, task_id = record.spec.changes, record.task_id
        if changes is None or self._parts.store.blob_path(changes.sha256) is not None:
            return True
        transfer = self._transfers.get(task_id)
        if transfer is None:
            transfer = _Transfer(record, self._parts.store.incoming)
            self._transfers[task_id] = transfer
        if not transfer.asked:
            transfer.asked = True
            message = Artifact(task_id=task_id, sha256=changes.sha256, offset=transfer.offset)
            self._parts.post(record.peer_id, message)
        return False

    def expects(self, task_id: TaskId, peer_id: NodeId) -> bool:
        """Say whether a peer was asked for what belongs to a task."""
        transfer = self._transfers.get(task_id)
        return transfer is not None and transfer.peer_id == peer_id and transfer.asked

    async def take(self, chunk: Chunk) -> bool:
        """Take a chunk; True when all is here and stored.

        Raises:
            RemoteProtocolError: the bytes are not those announced; the transfer has ended.
            DiskFull: there is no room; likewise.
        """
        transfer = self._transfers.get(chunk.task_id)
        if transfer is None:
            return False
        try:
            if not transfer.add(chunk):
                return False
            await self._parts.store.blob(transfer.close_whole())
        finally:
            if transfer.over:
                self.drop(chunk.task_id)
        return True

    def relinked(self, peer_id: NodeId) -> None:
        """The link to a peer is another one: what it was asked for is asked for again."""
        for transfer in self._transfers.values():
            if transfer.peer_id == peer_id:
                transfer.asked = False

    def drop(self, task_id: TaskId) -> None:
        """End a transfer."""
        transfer = self._transfers.pop(task_id, None)
        if transfer is not None:
            transfer.close()


class _Transfer:
    """One transfer.

    Attributes:
        asked: the peer was asked on the link that there is.
        over: nothing more of it is taken.
    """

    def __init__(self, record: TaskRecord, directory: Path) -> None:
        changes = record.spec.changes
        assert changes is not None
        self.peer_id = record.peer_id
        self.asked = self.over = False
        self._assembler = Assembler(record.task_id, changes.sha256, changes.bytes, CHANGES_BYTES)
        try:
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by `close`
                prefix="incoming-", dir=directory, delete=False
            )
        except OSError as error:
            raise _no_room(error) from error

    @property
    def offset(self) -> int:
        return self._assembler.offset

    def add(self, chunk: Chunk) -> bool:
        try:
            self._file.write(self._assembler.add(chunk))
        except RemoteProtocolError:
            self.over = True
            raise
        except OSError as error:
            self.over = True
            raise _no_room(error) from error
        self.over = self._assembler.done
        return self.over

    def close_whole(self) -> Path:
        try:
            self._file.close()
        except OSError as error:
            raise _no_room(error) from error
        return Path(self._file.name)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what was still buffered is not wanted
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


def _no_room(error: OSError) -> DiskFull:
    return DiskFull(f"no room for a caller's changes: {error.strerror}")
