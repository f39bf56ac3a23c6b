"""Changes of callers on their way to this worker: asked for, checked, stored by their hash.

A task starts only when its bytes are a blob here. What a lost link has brought is kept, and the
next one is asked for the rest; a restart of the daemon asks for all.
"""

from pathlib import Path

from typing_extensions import override

from cmesh.daemon.arriving import Arriving
from cmesh.daemon.parts import Parts
from cmesh.errors import DiskFull, RemoteProtocolError
from cmesh.model import NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.messages import CHANGES_BYTES, Artifact
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


class _Transfer(Arriving):
    """One transfer.

    Attributes:
        over: nothing more of it is taken.
    """

    what = "a caller's changes"

    def __init__(self, record: TaskRecord, directory: Path) -> None:
        changes = record.spec.changes
        assert changes is not None
        super().__init__(record.task_id, changes.sha256, changes.bytes, CHANGES_BYTES, directory)
        self.peer_id = record.peer_id
        self.over = False

    @override
    def add(self, chunk: Chunk) -> bool:
        try:
            self.over = super().add(chunk)
        except (RemoteProtocolError, DiskFull):
            self.over = True
            raise
        return self.over
