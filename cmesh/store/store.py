"""The store: what the daemon may rely on after a crash. The one door to everything in this folder.

Every method belongs to one event loop and none blocks it. What `commit` has returned for
is on the disk; nothing is answered that is not.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from typing_extensions import override

from cmesh.clock import Clock
from cmesh.errors import DiskFull
from cmesh.model import TaskId
from cmesh.store import queries
from cmesh.store.answer import Answer, AnswerFiles, Question
from cmesh.store.askers import Askers
from cmesh.store.compacting import drop_backups, tidy
from cmesh.store.confined import Confinement
from cmesh.store.copies import Copies
from cmesh.store.digests import digests
from cmesh.store.exchange import Opened
from cmesh.store.index import FINISHED_KEPT, LATELY, Index
from cmesh.store.keeping import Keeping
from cmesh.store.opening import Claim, Parts, StoreOptions
from cmesh.store.process import DatabaseProcess, ProcessOptions
from cmesh.store.records import AuditRecord, Record, SqlRows, TaskRecord, TaskSnapshot, Verification
from cmesh.store.reservations import Reservations
from cmesh.store.room import DISK_FLOOR_BYTES, Room
from cmesh.store.sql import Copying, Parameters, Query, QueryLimits, QueryProcess
from cmesh.store.summary import summary
from cmesh.store.unsettled import Unsettled
from cmesh.store.verify import verify
from cmesh.store.writer import Request, Settled, Writer, WriterOptions

__all__ = ["Store"]


class Store(Keeping):
    """One node's records, in one directory. Make it with `open`.

    Attributes:
        incarnation: names this store; a restored copy gets another one (`renew`).
    """

    def __init__(
        self,
        parts: Parts,
        options: StoreOptions,
        limits: QueryLimits | None,
        process: DatabaseProcess,
        opened: Opened,
    ) -> None:
        index = Index(on_ended=None if parts.prompts is None else parts.prompts.drop)
        super().__init__(index, process, options.clock)
        self.incarnation = opened.incarnation
        self._parts = parts
        self._options = options
        self._head = opened.head
        self._room = Room(options.directory, options.floor_bytes, options.clock)
        self._blobs, self._journal = parts.blobs, parts.claim.journal
        self._reservations = Reservations(self._knows, self._used, parts.prompts)
        self._copies = Copies(options.directory, process)
        self._confinement = Confinement(self._copies.directory)
        copying = Copying(
            confinement=self._confinement,
            fill=self._copies.take,
            rest=self._copies.rest,
            columns=self._columns,
        )
        self._queries = QueryProcess(copying, limits)
        self._askers = Askers(copying, limits)
        self._unsettled = Unsettled()
        self._writer = Writer(
            WriterOptions(
                journal=parts.claim.journal,
                head_file=parts.claim.head_file,
                clock=options.clock,
                node=options.node,
                keep_prompts=parts.prompts is None,
                settle=self._settle,
            ),
            opened.head,
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
        claim = Claim(directory)
        await asyncio.to_thread(claim.take)
        await asyncio.to_thread(tidy, directory)
        process = DatabaseProcess(
            ProcessOptions(directory=directory, node=node, journal=claim.journal)
        )
        try:
            opened = await process.open(claim.acknowledged, uuid.uuid4().hex)
            parts = await asyncio.to_thread(Parts.begin, claim, options, opened.head)
        except BaseException:
            await process.close()
            claim.release(drop_journal=False)
            raise
        store = cls(parts, options, query_limits, process, opened)
        store._writer.start()
        try:
            await store._load(opened.migrated)
        except BaseException:
            await store.close()
            raise
        return store

    def on_end(self, told: Callable[[TaskSnapshot], None]) -> None:
        """Tell `told` of each task that ends from now on, once that is durable; it must not raise."""
        self._index.told = told

    @property
    @override
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
        return self._room.has_room()

    @override
    async def commit(self, records: Sequence[Record]) -> int:
        """Make the records durable, all or none, and return the number of the last one.

        Waits for as long as the disk takes once that has begun with them: what may be durable
        must not be decided a second time. When it is cancelled, or the process dies, they may
        be durable all the same.

        Raises:
            DiskFull: too little room for new work, or none at all; nothing was stored.
            TaskConflict: a task's id or idempotency key is in use already.
            StoreError: a record cannot be stored, the disk failed, or did not begin within
                `unsettled.COMMIT_LIMIT_S`, which stores nothing; or the store is closed.
        """
        self._require_open()
        if not records:
            return self._head.seq
        new = [record for record in records if isinstance(record, TaskRecord)]
        self._room.require(new=bool(new))
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if new:
            await self._reservations.take(new, future)
        request = Request(records=tuple(records), future=future)
        self._unsettled.add(request)
        self._writer.put(request)
        # Its ids and keys stay reserved when whoever waits is cancelled; without any, nobody
        # asks the future afterwards.
        return await (asyncio.shield(future) if new else future)

    async def has_row(self, seq: int, hash_hex: str) -> bool:
        """Say whether the log's row `seq` is the one with this hash."""
        if seq > self._head.seq:
            return False
        if seq == self._head.seq:
            return hash_hex == self._head.hash.hex()
        return await self._read(partial(queries.hash_at, seq=seq)) == hash_hex

    async def renew(self, why: Mapping[str, object]) -> None:
        """Take a new incarnation, durably: this store turned out to be a restored copy."""
        fresh = uuid.uuid4().hex
        data = {"incarnation": fresh, "before": self.incarnation, **why}
        await self.commit([AuditRecord(kind="store_restored", data=data)])
        self.incarnation = fresh

    async def blob(self, data: bytes | Path) -> str:
        """Store bytes, or a copy of a file's, durably; return their SHA-256 in hex.

        Raises:
            DiskFull: there is no room.
        """
        self._require_open()
        self._room.require(new=False)
        try:
            return await asyncio.to_thread(self._parts.blobs.add, data)
        except OSError as error:
            raise DiskFull(f"no room for an output: {error.strerror}") from error

    async def take_blob(self, file: Path, sha256: str) -> None:
        """Store a whole file of `incoming` durably, in place, by the digest that was checked.

        Raises:
            DiskFull: there is no room; the file is where it was.
        """
        self._require_open()
        self._room.require(new=False)
        try:
            await asyncio.to_thread(self._parts.blobs.take, file, sha256)
        except OSError as error:
            raise DiskFull(f"no room for an output: {error.strerror}") from error

    def hold_blob(self, sha256: str) -> bool:
        """Say whether a file with this digest is here; it then stays until a row has named it."""
        return self._parts.blobs.hold(sha256)

    def blob_path(self, sha256: str) -> Path | None:
        """Return the file with this digest, never to be changed, or None."""
        return self._parts.blobs.path(sha256)

    async def read_blob(self, sha256: str, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes from `offset`.

        Raises:
            StoreError: there is no output with this digest.
        """
        return await asyncio.to_thread(self._parts.blobs.read, sha256, offset, limit)

    async def sql(self, text: str, parameters: Parameters, limit: int) -> SqlRows:
        """Run one SELECT over a copy, confined; it sees all that was committed before.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
        """
        self._require_open()
        query = Query(text=text, parameters=parameters, limit=limit)
        return await self._queries.run(query, self._head.seq)

    def answer_path(self, query_id: str) -> Path:
        """Return where the answer to a peer's query may be made: on this disk, gone after a crash."""
        return self.incoming / f"incoming-answer-{query_id}"

    async def answer(self, question: Question, path: Path) -> Answer:
        """Run a peer's SELECT as `sql` does, and write the rows as Parquet to a new file.

        The file is the caller's to remove, also after an error.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
            DiskFull: there is no room.
        """
        self._require_open()
        async with self._askers.turn(question.asker), self.answer_files() as files:
            rows = await self._askers.run(question, self._head.seq)
            self._room.require(new=False)
            return await files.write(rows, path, question.most_bytes)

    def answer_files(self) -> AnswerFiles:
        """Return what reads files of other nodes' answers; use it in an `async with`."""
        return AnswerFiles(self._confinement)

    async def verify(self) -> Verification:
        """Check every row of the log, and its typed row, against the chain and the head."""
        return await self._read(partial(verify, head=self._head))

    async def copy(self) -> Path:
        """Return a directory with a whole copy of the database; it is the caller's to remove.

        Raises:
            StoreError: there is no room, or DuckDB fails.
        """
        self._require_open()
        return await self._copies.whole()

    @override
    async def forget_copies(self) -> None:
        """Delete the copies that queries read, and those from before a migration.

        No copy of another state than the store's is ever put back, so none is missed.
        """
        await self._queries.forget()
        await self._askers.forget()
        await asyncio.to_thread(drop_backups, self._options.directory)

    async def close(self) -> None:
        """Settle every commit, bring all rows into DuckDB, give up the lock; idempotent."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._queries.close()
        await self._askers.close()
        await self._confinement.close()
        await self._copies.rest()
        await asyncio.to_thread(self._writer.stop)
        # What the commit thread settled last is still on its way through the loop.
        await asyncio.sleep(0)
        whole = await self._process.close()
        await asyncio.to_thread(self._parts.claim.release, drop_journal=whole)

    async def _load(self, migrated: Sequence[int]) -> None:
        await self._copies.forget()
        since = self._options.clock.now() - LATELY
        self._index.load(
            await self._read(partial(summary, since=since, latest=FINISHED_KEPT)),
            self._parts.revive,
        )
        if self._parts.prompts is not None:
            open_ids = {task.record.task_id for task in self._index.unfinished()}
            await asyncio.to_thread(self._parts.prompts.drop_except, open_ids)
        if self._head.seq == 0:
            data = {"incarnation": self.incarnation}
            await self.commit([AuditRecord(kind="store_created", data=data)])
        elif migrated:
            await self.commit([AuditRecord(kind="store_migrated", data={"to": migrated[-1]})])

    def _settle(self, settled: Sequence[Settled]) -> None:
        for one in settled:
            records, request = one.request.records, one.request
            if one.error is not None:
                request.fail(one.error)
                continue
            if one.ts is not None:
                self._index.add(records, one.first_seq, one.ts)
                self._head = one.head
                if self._blobs.watching:
                    self._blobs.named(digests(records))
            if not request.future.done():
                request.future.set_result(one.head.seq)
        self._unsettled.drop_settled()
        if any(one.error is None for one in settled):
            self._process.committed(self._head)

    async def _columns(self) -> dict[str, list[str]]:
        return await self._read(queries.columns)

    async def _knows(self, task_id: TaskId) -> bool:
        return self._index.may_know(task_id) and await self.task(task_id) is not None

    async def _used(self, key: str) -> bool:
        return await self.idempotent(key) is not None
