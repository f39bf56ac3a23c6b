"""The store: what the daemon may rely on after a crash. The one door to everything in this folder.

Every method belongs to one event loop and none blocks it. What `commit` has returned for
is on the disk; nothing is answered that is not.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cmesh.clock import Clock
from cmesh.errors import DiskFull, StoreError, TaskConflict
from cmesh.model import Direction, Event, NodeId, TaskId, TaskState
from cmesh.store import queries
from cmesh.store.database import Reader
from cmesh.store.index import Index
from cmesh.store.opening import Parts, StoreOptions, open_parts
from cmesh.store.records import (
    AuditRecord,
    Record,
    SqlRows,
    TaskRecord,
    TaskSnapshot,
    TrustRecord,
    Verification,
)
from cmesh.store.snapshot import Snapshot, forget_snapshots, take_snapshot
from cmesh.store.sql import QueryLimits, QueryProcess, SqlValue
from cmesh.store.verify import verify
from cmesh.store.writer import Request, Settled, Writer, WriterOptions

__all__ = ["DISK_FLOOR_BYTES", "Store"]

T = TypeVar("T")

COMMIT_LIMIT_S = 30.0
APPLY_LIMIT_S = 30.0
READ_LIMIT_S = 60.0
DISK_FLOOR_BYTES = 128 * 1024 * 1024
"""Free bytes below which no new task is taken. Tasks already taken may use half of it."""

_PREFIX_MATCHES = 20


class Store:
    """One node's records, in one directory. Make it with `open`.

    Attributes:
        incarnation: names this store for good; a restored copy gets another one.
    """

    def __init__(self, parts: Parts, options: StoreOptions, limits: QueryLimits | None) -> None:
        self.incarnation = parts.incarnation
        self._parts = parts
        self._options = options
        self._head = parts.head
        self._closing: asyncio.Future[None] | None = None
        self._claimed: set[str] = set()  # ids and keys of tasks on their way
        self._reader = ThreadPoolExecutor(1, "cmesh-read")
        self._snapshots = options.directory / "snapshots"
        self._snapshot_count = 0
        self._queries = QueryProcess(self._take_snapshot, limits)
        self._index = Index(on_ended=None if parts.prompts is None else parts.prompts.drop)
        self._writer = Writer(
            WriterOptions(
                journal=parts.journal,
                head_file=parts.head_file,
                clock=options.clock,
                node=options.node,
                keep_prompts=parts.prompts is None,
                settle=self._settle,
                apply=parts.applier.add,
            ),
            parts.head,
        )

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        clock: Clock,
        node: str,
        store_prompts: str = "text",
        floor_bytes: int = DISK_FLOOR_BYTES,
        query_limits: QueryLimits | None = None,
    ) -> "Store":
        """Open the store in `directory`, made when there is none; finish what a crash left.

        With `store_prompts="digest"` prompts are kept only until their task ends.

        Raises:
            StoreBusy: another process has it.
            StoreDamaged: acknowledged rows are missing, or the file cannot be read.
            SchemaTooNew: a newer cmesh wrote it.
            DiskFull: there is no room to open it.
            UnsafePermissions: other users can get into the directory.
        """
        options = StoreOptions(
            directory=directory,
            clock=clock,
            node=node,
            keep_prompts=store_prompts != "digest",
            floor_bytes=floor_bytes,
        )
        parts = await asyncio.to_thread(open_parts, options)
        store = cls(parts, options, query_limits)
        parts.applier.start()
        store._writer.start()
        try:
            await store._load(parts)
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def head(self) -> tuple[int, str]:
        """The last acknowledged row: its number and its hash in hex."""
        return self._head.seq, self._head.hash.hex()

    @property
    def incoming(self) -> Path:
        """Where a file to be given to `blob` may be written: the same disk, tidied at each start.

        Its name must begin with `incoming-`.
        """
        return self._parts.blobs.directory

    def has_room(self) -> bool:
        """Say whether tasks that were taken already can be carried on."""
        return self._free_bytes() >= self._options.floor_bytes // 2

    async def commit(self, records: Sequence[Record]) -> int:
        """Make the records durable, all or none, and return the number of the last one.

        When it is cancelled, or the process dies, they may be durable all the same.

        Raises:
            DiskFull: too little room for new work, or none at all; nothing was stored.
            TaskConflict: a task's id or idempotency key is in use already.
            StoreError: a record cannot be stored, the disk failed, or the store is closed.
        """
        self._require_open()
        if not records:
            return self._head.seq
        new = [record for record in records if isinstance(record, TaskRecord)]
        self._require_room(self._options.floor_bytes // (1 if new else 2))
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        if new:
            await self._claim(new, future)
        self._writer.put(Request(records=tuple(records), future=future))
        try:
            async with asyncio.timeout(COMMIT_LIMIT_S):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise StoreError(f"the disk has not answered for {COMMIT_LIMIT_S:g} s") from error

    async def task(self, task_id: TaskId) -> TaskSnapshot | None:
        """Return a task, or None. Unfinished and lately finished ones come from memory."""
        found = self._index.find(task_id)
        if found is not None or not self._index.may_know(task_id):
            return found
        missed = self._index.missed
        drafts = await self._read(lambda cursor: queries.drafts(cursor, [task_id]))
        return self._index.remember(drafts[0], missed) if drafts else None

    async def unfinished(self) -> list[TaskSnapshot]:
        """Return tasks that have not ended, or whose caller has not acknowledged; oldest first."""
        return self._index.unfinished()

    async def tasks(
        self,
        *,
        direction: Direction | None = None,
        states: Sequence[TaskState] | None = None,
        session: str | None = None,
        limit: int,
    ) -> list[TaskSnapshot]:
        """Return tasks, newest first. `states` are the public ones."""

        def read(cursor: Reader) -> list[TaskSnapshot]:
            ids = queries.listed(
                cursor, direction=direction, states=states, session=session, limit=limit
            )
            return [draft.snapshot() for draft in queries.drafts(cursor, ids)]

        return await self._read(read)

    async def events(self, task_id: TaskId, *, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events numbered above `after`, oldest first."""
        tail = self._index.tail(task_id, after)
        if tail is not None:
            return tail[:limit]
        return await self._read(
            lambda cursor: queries.events(cursor, task_id, after=after, limit=limit)
        )

    async def last_events(self, task_id: TaskId, limit: int) -> list[Event]:
        """Return the latest `limit` events, oldest first."""
        tail = self._index.latest(task_id, limit)
        if tail is not None:
            return tail
        return await self._read(lambda cursor: queries.last_events(cursor, task_id, limit))

    async def find_by_prefix(self, prefix: str) -> list[TaskId]:
        """Return ids that start or end with `prefix`, newest first, 20 at most."""
        if self._index.find(TaskId(prefix)) is not None:
            return [TaskId(prefix)]
        return await self._read(lambda cursor: queries.prefixed(cursor, prefix, _PREFIX_MATCHES))

    async def idempotent(self, key: str) -> TaskId | None:
        """Return the task this node asked for with `key`, or None."""
        if not key or not self._index.may_have(key):
            return None
        lately = self._index.by_key(key)
        return lately or await self._read(lambda cursor: queries.idempotent(cursor, key))

    async def trust(self) -> list[TrustRecord]:
        """Return the latest decision about each peer's key."""
        return self._index.trust()

    async def counts(self, peer_id: NodeId, since: datetime) -> int:
        """Return how many tasks of this peer were stored since, without denied ones."""
        lately = self._index.count(peer_id, since, self._options.clock.now())
        if lately is not None:
            return lately
        rows = await self._read(lambda cursor: queries.accepted_since(cursor, since))
        return sum(peer == peer_id for peer, *_ in rows)

    async def blob(self, data: bytes | Path) -> str:
        """Store bytes, or a copy of a file's, durably; return their SHA-256 in hex.

        Raises:
            DiskFull: there is no room.
        """
        self._require_open()
        self._require_room(self._options.floor_bytes // 2)
        try:
            return await asyncio.to_thread(self._parts.blobs.add, data)
        except OSError as error:
            raise DiskFull(f"no room for an output: {error.strerror}") from error

    def blob_path(self, sha256: str) -> Path | None:
        """Return the file with this digest, never to be changed, or None."""
        return self._parts.blobs.path(sha256)

    async def read_blob(self, sha256: str, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes from `offset`.

        Raises:
            StoreError: there is no output with this digest.
        """
        return await asyncio.to_thread(self._parts.blobs.read, sha256, offset, limit)

    async def sql(self, text: str, parameters: Sequence[SqlValue], limit: int) -> SqlRows:
        """Run one SELECT over a copy, confined; it sees all that was committed before.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
        """
        self._require_open()
        return await self._queries.run(text, parameters, limit, self._head.seq)

    async def verify(self) -> Verification:
        """Check every row of the log, and its typed row, against the chain and the head."""
        head = self._head
        return await self._read(lambda cursor: verify(cursor, head))

    async def close(self) -> None:
        """Settle every commit, bring all rows into DuckDB, give up the lock; idempotent."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._queries.close()
        await asyncio.to_thread(self._writer.stop)
        await asyncio.to_thread(self._parts.close)
        self._reader.shutdown(wait=False)
        # What the commit thread settled last is still on its way through the loop.
        await asyncio.sleep(0)

    async def _load(self, parts: Parts) -> None:
        await asyncio.to_thread(forget_snapshots, self._snapshots)
        now = self._options.clock.now()
        await self._read(lambda cursor: self._index.load(cursor, now, parts.revive))
        if parts.prompts is not None:
            open_ids = {task.record.task_id for task in self._index.unfinished()}
            await asyncio.to_thread(parts.prompts.drop_except, open_ids)
        if self._head.seq == 0:
            data = {"incarnation": self.incarnation}
            await self.commit([AuditRecord(kind="store_created", data=data)])
        elif parts.migrated:
            versions = {"to": parts.migrated[-1]}
            await self.commit([AuditRecord(kind="store_migrated", data=versions)])

    def _settle(self, settled: Sequence[Settled]) -> None:
        for one in settled:
            records, future = one.request.records, one.request.future
            if one.error is None and one.ts is not None:
                self._index.add(records, one.first_seq, one.ts)
                self._head = one.head
            if future.done():
                continue
            if one.error is not None:
                future.set_exception(one.error)
            else:
                future.set_result(one.head.seq)

    async def _claim(self, new: Sequence[TaskRecord], future: "asyncio.Future[int]") -> None:
        """Reserve ids and keys until `future` is done, also when nobody waits for it.

        Raises:
            TaskConflict: one is taken.
        """
        claims: set[str] = set()
        future.add_done_callback(lambda _: self._claimed.difference_update(claims))
        try:
            for record in new:
                claims |= await self._claim_one(record)
            if self._parts.prompts is not None:
                await asyncio.to_thread(self._keep_prompts, new)
        except BaseException:
            future.cancel()
            raise

    async def _claim_one(self, record: TaskRecord) -> set[str]:
        task_id = record.task_id
        key = record.idempotency_key if record.direction is Direction.OUT else ""
        wanted = {f"id:{task_id}", f"key:{key}"} if key else {f"id:{task_id}"}
        if self._index.may_know(task_id) and await self.task(task_id) is not None:
            raise TaskConflict(f"task `{task_id}` is in the store already")
        if key and await self.idempotent(key) is not None:
            raise TaskConflict(f"idempotency key `{key}` was used before")
        # INVARIANT: nothing is awaited between this look and the claim.
        if self._claimed & wanted:
            raise TaskConflict(f"task `{task_id}` is being stored already")
        self._claimed |= wanted
        return wanted

    def _keep_prompts(self, new: Sequence[TaskRecord]) -> None:
        if self._parts.prompts is not None:
            for record in new:
                self._parts.prompts.keep(record.task_id, record.spec.prompt)

    async def _read(self, read: Callable[[Reader], T]) -> T:
        self._require_open()
        seq = self._head.seq

        def run() -> T:
            self._parts.applier.wait(seq, APPLY_LIMIT_S)
            with self._parts.database.reading() as cursor:
                return read(cursor)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_LIMIT_S):
                return await asyncio.get_running_loop().run_in_executor(self._reader, run)
        raise StoreError(f"the database has not answered for {READ_LIMIT_S:g} s")

    async def _take_snapshot(self) -> Snapshot:
        self._snapshot_count += 1
        name = f"snapshot-{self._snapshot_count}"
        path = self._parts.database.path
        job = self._parts.applier.between(
            lambda seq: take_snapshot(path, self._snapshots, name, seq)
        )
        return await asyncio.wrap_future(job)

    def _require_open(self) -> None:
        if self._closing is not None:
            raise StoreError("the store is closed")

    def _require_room(self, floor_bytes: int) -> None:
        free_bytes = self._free_bytes()
        if free_bytes < floor_bytes:
            raise DiskFull(
                f"{free_bytes // 1024**2} MiB are free where the store is;"
                f" this needs {floor_bytes // 1024**2} MiB"
            )

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._options.directory)
        return disk.f_bavail * disk.f_frsize


def _retrieve(future: "asyncio.Future[int]") -> None:
    """Look at an outcome nobody may wait for any more, so that asyncio does not complain."""
    if not future.cancelled():
        future.exception()
