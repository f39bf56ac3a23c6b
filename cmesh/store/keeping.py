"""What the store forgets: texts past their time, texts somebody asked to forget, their files.

Beside `Reading`, which only reads. Every method belongs to one event loop and none blocks it.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from cmesh.errors import StoreError
from cmesh.model import NodeId, TaskId
from cmesh.store import erasing, sizes
from cmesh.store.blobs import Blobs
from cmesh.store.drafts import drafts
from cmesh.store.erasing import Candidate
from cmesh.store.journal import Journal
from cmesh.store.reading import Reading
from cmesh.store.records import AuditRecord, Record
from cmesh.store.room import Room
from cmesh.store.sizes import Sizes
from cmesh.store.texts import FORGOTTEN, TEXTS_ERASED

__all__ = ["BATCH_ROWS", "COMPACTED", "EXPORT_BEGUN", "Compacted", "Dropped", "Keeping"]

BATCH_ROWS = 2_000
"""Rows whose texts go in one transaction; what is asked meanwhile waits for some 50 ms."""

BATCH_TASKS = 500
"""Tasks that are looked at for such rows at a time."""

COMPACTED = "store_compacted"
"""Audit word: the file was written anew, so that nothing erased before is left in it."""

EXPORT_BEGUN = "export_begun"
"""Audit word: where a copy of all rows up to this one goes, and who asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Files that were deleted since no row names them any more."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """The database's size before and after."""

    bytes_before: int
    bytes_after: int


class Keeping(Reading):
    """What takes things out of a store; `Store` has the parts it works with."""

    _blobs: Blobs
    _journal: Journal
    _room: Room

    @property
    @abstractmethod
    def head(self) -> tuple[int, str]:
        """Return the last acknowledged row; see `Store.head`."""

    @abstractmethod
    async def commit(self, records: Sequence[Record]) -> int:
        """Make records durable; see `Store.commit`."""

    @abstractmethod
    async def forget_copies(self) -> None:
        """Delete what copies of the database this store has, and end who reads them."""

    async def forgettable(
        self,
        *,
        ids: Sequence[TaskId] = (),
        peers: Sequence[NodeId] = (),
        ended_before: datetime | None = None,
    ) -> list[Candidate]:
        """Return tasks that have texts, oldest first, by every condition that is given."""
        wanted = partial(erasing.found, ids=ids, peers=peers, ended_before=ended_before)
        return await self._read(wanted)

    async def forget(self, ids: Sequence[TaskId], why: Mapping[str, object]) -> None:
        """Write down that tasks shall be forgotten: `erase_due` does it, also after a crash.

        The caller has looked that none of them is open.

        Raises:
            StoreError: nothing was written, or a task is open.
        """
        for task_id in ids:
            if self.is_unfinished(task_id):
                raise StoreError(f"task `{task_id}` is open")
        await self.forget_again(ids, why)

    async def forget_again(self, ids: Sequence[TaskId], why: Mapping[str, object]) -> None:
        """Write down the same of tasks that may be open: their texts go when they have ended.

        Raises:
            StoreError: nothing was written.
        """
        parts = [ids[at : at + BATCH_TASKS] for at in range(0, len(ids), BATCH_TASKS)]
        await self.commit(
            [AuditRecord(kind=FORGOTTEN, data={**why, "tasks": list(part)}) for part in parts]
        )

    async def forgotten(self) -> list[TaskId]:
        """Return every task that somebody asked to forget."""
        return await self._read(erasing.forgotten)

    async def export_begun(self, where: str, by: Mapping[str, object]) -> None:
        """Write down, before a copy is made for it, where an export goes and who asked for it.

        The copy then has this row, and the export tells of itself.

        Raises:
            StoreError: nothing was written, so nothing is to be exported.
        """
        seq, digest = self.head
        data = {
            "where": where,
            "first_seq": 1,
            "head_seq": seq,
            "head_hash": digest,
            "by": dict(by),
        }
        await self.commit([AuditRecord(kind=EXPORT_BEGUN, data=data)])

    async def erase_due(self, ended_before: datetime | None) -> int:
        """Erase the texts of tasks that ended before a time, and of forgotten ones; return rows.

        A transaction for each `BATCH_ROWS`, with a turn for others in between.

        Raises:
            StoreError: what was erased before stays erased, the rest is due still.
        """
        due = await self._read(partial(erasing.due, ended_before=ended_before))
        parts = [due[at : at + BATCH_TASKS] for at in range(0, len(due), BATCH_TASKS)]
        return sum([await self._erase(part) for part in parts])

    async def _erase(self, ids: Sequence[TaskId]) -> int:
        rows = 0
        while some := await self._read(partial(erasing.batch, ids=ids, limit=BATCH_ROWS)):
            data = {"rows": some.rows, "count": some.count, "tasks": len(some.tasks)}
            sealed = {"resealed": some.resealed} if some.resealed else {}
            await self.commit([AuditRecord(kind=TEXTS_ERASED, data=data | sealed)])
            # Reading brings the row in first, and with it the texts go.
            for draft in await self._read(partial(drafts, ids=some.tasks)):
                self._index.replace(draft)
            rows += some.count
        return rows

    async def drop_files(self, ended_before: datetime | None) -> Dropped:
        """Delete the files that no row names, or only rows from before a time.

        Raises:
            StoreError: the database or the disk failed.
        """
        try:
            with self._blobs.holding():
                used = await self._read(partial(erasing.used, ended_after=ended_before))
                files, size = await asyncio.to_thread(self._blobs.drop_except, used)
        except OSError as error:
            raise StoreError(f"an output could not be deleted: {error.strerror}") from error
        if files:
            data = {"files": files, "bytes": size}
            await self.commit([AuditRecord(kind="outputs_erased", data=data)])
        return Dropped(files=files, bytes=size)

    async def sizes(self) -> Sizes:
        """Return how large the database is, and how much of it is of no more use."""
        return await self._read(sizes.sizes)

    async def compact(self) -> Compacted:
        """Write the database anew without what was erased or is free, and drop older copies.

        Commits go on meanwhile; reads wait, about a second for each 60 MB. Safe to be killed
        at any time: one of the two files is the database, whole.

        Raises:
            DiskFull: there is no room for a second copy.
            StoreError: it failed; the store is as it was.
        """
        self._require_open()
        before, after = await self._process.rewrite(self._room)
        await self.forget_copies()
        self._journal.turn_over()
        data = {"bytes_before": before, "bytes_after": after}
        await self.commit([AuditRecord(kind=COMPACTED, data=data)])
        await self._process.settle()
        return Compacted(bytes_before=before, bytes_after=after)
