"""The commit thread: numbers, chains and journals records, many requests at a time.

A request is settled only after its rows are on the disk; the head follows at once, before
the next group. The thread owns the journal and the head file; it never touches DuckDB.
"""

import asyncio
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cmesh.clock import Clock
from cmesh.errors import DiskFull, StoreError
from cmesh.store.chain import from_micros, link, micros
from cmesh.store.encode import encode
from cmesh.store.head import Head, HeadFile
from cmesh.store.journal import Entry, Journal
from cmesh.store.records import Record

__all__ = ["Request", "Settled", "Writer", "WriterOptions"]

_log = logging.getLogger(__name__)

_GROUP_REQUESTS = 1_000
_SALT_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Records that become durable together or not at all.

    Either the commit thread takes it, or who waits for it takes it back; never both.
    """

    records: tuple[Record, ...]
    future: asyncio.Future[int]
    _taken: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Make it this thread's; False when somebody has taken it before. Does not block."""
        return self._taken.acquire(blocking=False)

    def fail(self, error: StoreError) -> None:
        """Settle it with an error, unless nobody waits. Event loop only."""
        if not self.future.done():
            self.future.set_exception(error)
            # Looked at here, since whoever waits may be cancelled before it wakes up.
            self.future.exception()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a request: `error`, or else the numbers and time of its rows.

    `head` is the log's head after the request.
    """

    request: Request
    first_seq: int = 0
    head: Head = field(default_factory=Head)
    ts: datetime | None = None
    error: StoreError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """What the thread works with.

    Attributes:
        keep_prompts: False leaves every prompt out of the store, except for its digest.
        settle: called in the event loop with the outcomes of a group.
    """

    journal: Journal
    head_file: HeadFile
    clock: Clock
    node: str
    keep_prompts: bool
    settle: Callable[[Sequence[Settled]], None]


class Writer:
    """The thread, from `start` to `stop`."""

    def __init__(self, options: WriterOptions, head: Head) -> None:
        self._options = options
        self._head = head
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._failed: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="cmesh-commit", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, request: Request) -> None:
        """Hand over a request; its future is resolved in the event loop."""
        self._queue.put(request)

    def stop(self) -> None:
        """Settle what was put before, then end the thread; blocks until it has ended."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                before = self._head
                settled = self._commit(group)
                # The loop may be gone when the process ends without closing the store.
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._options.settle, settled)
                if self._head != before:
                    self._write_head()
            if last:
                return

    def _next_group(self) -> tuple[list[Request], bool]:
        group: list[Request] = []
        item = self._queue.get()
        while item is not None:
            if item.take():  # else nobody waits for it any more
                group.append(item)
            if len(group) == _GROUP_REQUESTS or self._queue.empty():
                return group, False
            item = self._queue.get()
        return group, True

    def _commit(self, group: list[Request]) -> list[Settled]:
        try:
            return self._try(group)
        except DiskFull as full:
            return [Settled(request=request, error=full) for request in group]
        except Exception as error:  # noqa: BLE001  # a bug must fail its callers, not hang them
            # Whether the group is on the disk is unknown now; another write on top would
            # make it worse, so the store takes nothing more until it is opened again.
            _log.exception("commit failed")
            self._failed = StoreError(f"the store stopped after an error: {error}")
            return [Settled(request=request, error=self._failed) for request in group]

    def _try(self, group: list[Request]) -> list[Settled]:
        if self._failed is not None:
            return [Settled(request=request, error=self._failed) for request in group]
        ts = micros(self._options.clock.now())
        moment = from_micros(ts)
        entries: list[Entry] = []
        settled: list[Settled] = []
        head = self._head
        salts = _salts(sum(len(request.records) for request in group))
        for request in group:
            try:
                made = self._entries(request.records, head, ts, salts)
            except StoreError as error:
                settled.append(Settled(request=request, error=error))
                continue
            entries += made
            first_seq, head = head.seq + 1, Head(seq=made[-1].seq, hash=made[-1].hash)
            settled.append(Settled(request=request, first_seq=first_seq, head=head, ts=moment))
        if entries:
            self._options.journal.append(entries)
            self._head = head
        return settled

    def _write_head(self) -> None:
        # INVARIANT: the head never names a row that is not durable. It may lag by the group
        # settled last, so nobody waits for its own disk write.
        try:
            self._options.head_file.write(self._head)
        except OSError as error:
            _log.exception("head_failed")
            self._failed = StoreError(f"the store stopped: its head file failed: {error}")

    def _entries(
        self, records: Sequence[Record], head: Head, ts: int, salts: Iterator[str]
    ) -> list[Entry]:
        entries: list[Entry] = []
        seq, previous = head.seq, head.hash
        for record in records:
            seq += 1
            row = encode(record, salt=next(salts))
            if row.table == "task_row" and not self._options.keep_prompts:
                row = row._replace(left_out=frozenset({"prompt"}))
            canon = row.canon(node=self._options.node, seq=seq, ts=ts)
            previous = link(previous, canon)
            entry = Entry(
                seq=seq,
                ts=ts,
                kind=row.kind,
                task_id=row.task_id,
                canon=canon,
                hash=previous,
                table=row.table,
                values=row.kept(),
            )
            entries.append(entry)
        return entries


def _salts(count: int) -> Iterator[str]:
    # Drawn for a whole group: each call of the system hands the interpreter to another thread.
    drawn = secrets.token_hex(count * _SALT_BYTES)
    return (drawn[at : at + 2 * _SALT_BYTES] for at in range(0, len(drawn), 2 * _SALT_BYTES))
