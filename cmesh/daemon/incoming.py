"""What callers send beside a task, on its way to this worker: asked for, checked, put aside.

A task with changes starts only when its caller has sent their bytes, and the commit that they are
made on is in its directory's repository or has come as a bundle. What a lost link has brought is
kept, and the next one is asked for the rest; a restart of the daemon asks for all.

INVARIANT: that bytes of a hash are kept here gives them to nobody who names it. They may be
another's, or withheld from this very caller, who is told the hash of what a secret withholds.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from cmesh.daemon.arriving import Arriving
from cmesh.daemon.parts import Parts
from cmesh.errors import DiskFull, RemoteProtocolError
from cmesh.model import NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.messages import (
    BUNDLE_BYTES,
    Artifact,
    Bundle,
    Lacks,
)
from cmesh.protocol.spec import CHANGES_BYTES
from cmesh.runner.history import lacking
from cmesh.store.records import TaskRecord
from cmesh.text import one_line

__all__ = ["Incoming"]

REASON_CHARACTERS = 300


class Incoming:
    """The transfers of all tasks; one a task at a time, its changes first."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._transfers: dict[TaskId, _Transfer] = {}
        self._lacks: dict[TaskId, _Lack] = {}
        self._came: set[TaskId] = set()  # whose changes its caller has sent
        self._has: set[TaskId] = set()  # whose commit was found in the directory

    async def ready(self, record: TaskRecord) -> bool:
        """Say whether what a task's caller sends is here; otherwise ask for it, once a link.

        Blocks on the disk in a thread.

        Raises:
            DiskFull: there is no room for it.
        """
        changes, task_id = record.spec.changes, record.task_id
        if changes is None:
            return True
        if task_id not in self._came or self._parts.store.blob_path(changes.sha256) is None:
            if task_id not in self._transfers:
                self._begin(record.peer_id, task_id, changes.sha256, changes.bytes, CHANGES_BYTES)
            self._ask(self._transfers[task_id])
            return False
        if not changes.bundle or task_id in self._has:
            return True
        lack = self._lacks.get(task_id)
        if lack is None:
            have = await asyncio.to_thread(self._lacking, record)
            if have is None:
                self._has.add(task_id)
                return True
            lack = self._lacks[task_id] = _Lack(record, have)
        if lack.bundle is not None:
            return True
        # By a new link too: a caller that was restarted makes it anew, and it may be another one.
        if not lack.asked:
            lack.asked = True
            self._parts.post(record.peer_id, Lacks(task_id=task_id, have=tuple(lack.have)))
        return False

    def bundle(self, task_id: TaskId) -> Path | None:
        """Return the commits that came for a task, as a file that is there until `drop`."""
        lack = self._lacks.get(task_id)
        return lack.bundle if lack else None

    def expects(self, task_id: TaskId, peer_id: NodeId) -> bool:
        """Say whether a peer was asked for what belongs to a task."""
        for one in (self._transfers.get(task_id), self._lacks.get(task_id)):
            if one is not None and one.peer_id == peer_id and one.asked:
                return True
        return False

    def announced(self, message: Bundle, peer_id: NodeId) -> None:
        """Ask for a bundle that a caller has made; one that nobody asked for is left alone.

        Raises:
            RemoteProtocolError: it is longer than one may be.
            DiskFull: there is no room for it.
        """
        task_id = TaskId(message.task_id)
        lack = self._lacks.get(task_id)
        if lack is None or not lack.asked or lack.peer_id != peer_id or lack.bundle is not None:
            return
        transfer = self._transfers.get(task_id)
        if transfer is not None and transfer.sha256 != message.sha256:
            self._close(task_id)  # made anew, after a restart of the caller
        if task_id not in self._transfers:
            self._begin(peer_id, task_id, message.sha256, message.bytes, BUNDLE_BYTES)
        self._ask(self._transfers[task_id])

    def refused(self, task_id: TaskId, reason: str) -> str:
        """Return, in a sentence, what a caller's refusal to send means; `reason` is its word."""
        lack = self._lacks.get(task_id)
        if lack is None:
            return "its caller does not send the changes that it announced"
        said = one_line(reason, REASON_CHARACTERS)
        return (
            f"the commit {lack.commit[:12]} that the caller's changes are made on is not in its"
            f" repository, and the caller sends no bundle of it: {said}"
        )

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
            path, lack = transfer.close_whole(), self._lacks.get(chunk.task_id)
            if lack is None:
                await self._parts.store.take_blob(path, transfer.sha256)
                # Else the task has ended meanwhile.
                if self._transfers.get(chunk.task_id) is transfer:
                    self._came.add(chunk.task_id)
            else:
                lack.bundle, lack.asked = path, False
                del self._transfers[chunk.task_id]
        finally:
            if transfer.over and self._transfers.get(chunk.task_id) is transfer:
                self._close(chunk.task_id)
        return True

    def relinked(self, peer_id: NodeId) -> None:
        """The link to a peer is another one: what it was asked for is asked for again."""
        for one in (*self._transfers.values(), *self._lacks.values()):
            if one.peer_id == peer_id:
                one.asked = False

    def drop(self, task_id: TaskId) -> None:
        """End what is on its way for a task, and delete its bundle."""
        self._close(task_id)
        self._came.discard(task_id)
        self._has.discard(task_id)
        lack = self._lacks.pop(task_id, None)
        if lack is not None and lack.bundle is not None:
            lack.bundle.unlink(missing_ok=True)

    def _lacking(self, record: TaskRecord) -> Sequence[str] | None:
        """Return the commits of a task's directory, when it lacks the one of the changes."""
        assert record.spec.changes is not None
        found = self._parts.rules.roots.find(record.spec.directory)
        if found.judged is None:
            return None
        with contextlib.suppress(OSError):  # whoever makes the copy will say so
            return lacking(found.judged, record.spec.changes.commit)
        return None

    def _begin(
        self, peer_id: NodeId, task_id: TaskId, sha256: str, size: int, limit_bytes: int
    ) -> None:
        directory = self._parts.store.incoming
        transfer = _Transfer(peer_id, task_id, sha256, size, limit_bytes, directory)
        self._transfers[task_id] = transfer

    def _ask(self, transfer: "_Transfer") -> None:
        if transfer.asked:
            return
        transfer.asked = True
        message = Artifact(task_id=transfer.task_id, sha256=transfer.sha256, offset=transfer.offset)
        self._parts.post(transfer.peer_id, message)

    def _close(self, task_id: TaskId) -> None:
        transfer = self._transfers.pop(task_id, None)
        if transfer is not None:
            transfer.close()


class _Lack:
    """A commit that is not here.

    Attributes:
        have: the commits that are, as far as it is told.
        asked: a link that lives was asked for it.
        bundle: what came; None = not yet.
    """

    def __init__(self, record: TaskRecord, have: Sequence[str]) -> None:
        assert record.spec.changes is not None
        self.peer_id = record.peer_id
        self.commit = record.spec.changes.commit
        self.have = have
        self.asked = False
        self.bundle: Path | None = None


class _Transfer(Arriving):
    """One transfer.

    Attributes:
        over: nothing more of it is taken.
    """

    what = "what a caller sends"

    def __init__(
        self,
        peer_id: NodeId,
        task_id: TaskId,
        sha256: str,
        size: int,
        limit_bytes: int,
        directory: Path,
    ) -> None:
        super().__init__(task_id, sha256, size, limit_bytes, directory)
        self.peer_id = peer_id
        self.task_id = task_id
        self.sha256 = sha256
        self.over = False

    @override
    def add(self, chunk: Chunk) -> bool:
        try:
            self.over = super().add(chunk)
        except (RemoteProtocolError, DiskFull):
            self.over = True
            raise
        return self.over
