"""A store under load, for `benchmarks.audit`: many writers, a heavy query beside them, copies.

The store is the daemon's own, in this process, with its database process and query processes.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from typing_extensions import override

from benchmarks.old_tasks import NODE
from cmesh.clock import SystemClock
from cmesh.errors import QueryRefused
from cmesh.model import Direction, Event, TaskId
from cmesh.store.copies import Copies
from cmesh.store.records import AuditRecord, EventRecord, Record
from cmesh.store.snapshot import FILE_NAME, Mark, Snapshot, discard
from cmesh.store.store import Store

__all__ = ["Copied", "Written", "audit_of", "copies_under_load", "event_of", "opened", "written"]

WRITERS, COPY_WRITERS = 100, 4
HEAVY = "SELECT count(*) FROM range(40000000) a WHERE hash(a.range) % 7 = 3"
_LINE = "line {} of what a program prints, as long as such lines are in the mean, or nearly so"
_NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Rows a second, and how long commits took in milliseconds."""

    rows_a_second: float
    p50_ms: float
    p99_ms: float
    commits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Copies taken under load.

    Attributes:
        short: copies that lacked a row committed before, or had a commit by half.
        held_ms: how long the database took no rows, for each copy; nobody's commit waits for it.
        commits_ms: how long commits took meanwhile.
    """

    copies: int
    short: int
    held_ms: Sequence[float]
    commits_ms: Sequence[float]


@asynccontextmanager
async def opened(directory: Path) -> AsyncGenerator[Store]:
    """Open a store as the daemon does, and close it."""
    store = await Store.open(directory, clock=SystemClock(), node=NODE)
    try:
        yield store
    finally:
        await store.close()


async def written(
    base: Path, make: Callable[[int, int], Record], *, rows: int, seconds: float
) -> tuple[Written, Written]:
    """Return what a hundred writers get of a new store alone, and beside a heavy query.

    Each commits `rows` at a time and waits. `make` takes a writer's number and the row's.
    Half of the time is without the query, in turn with it.
    """
    with tempfile.TemporaryDirectory(prefix="written-", dir=base) as place:
        async with opened(Path(place) / "store") as store:
            await _write(store, make, rows, seconds / 8)  # processes are started, files made
            alone, beside = list[Written](), list[Written]()
            for _ in range(2):
                alone.append(await _write(store, make, rows, seconds / 4))
                async with _heavy(store):
                    beside.append(await _write(store, make, rows, seconds / 4))
    return _mean(alone), _mean(beside)


def event_of(writer: int, number: int) -> Record:
    """Return an event as a command's output makes it."""
    event = Event(seq=number + 1, ts=_NOON, kind="output", text=_LINE.format(number))
    task_id = TaskId(f"00000000-0000-7000-8000-{writer:012}")
    return EventRecord(task_id=task_id, direction=Direction.IN, event=event, spool_end=number)


def audit_of(writer: int, number: int) -> Record:
    """Return a row as a task's connection makes it."""
    data = {"connection": f"{writer}-{number}", "host": "example.com", "verdict": "allowed"}
    return AuditRecord(kind="connection", data=data)


async def copies_under_load(store: Store, directory: Path, count: int) -> Copied:
    """Take copies of a store, whose directory is told, while rows come in; look into each."""
    short, times = 0, list[float]()
    with tempfile.TemporaryDirectory(prefix="copies-", dir=directory.parent) as name:
        copies = _Timed(store, directory, Path(name))
        async with _writing(store, times):
            for number in range(count):
                place = Path(name) / str(number)
                place.mkdir()
                before = store.head[0]
                taken = await copies.take(place)
                whole = await asyncio.to_thread(_whole, place, max(before, taken.seq))
                short += not whole
                await asyncio.to_thread(discard, place)
    return Copied(copies=count, short=short, held_ms=copies.held_ms, commits_ms=times)


async def _write(
    store: Store, make: Callable[[int, int], Record], rows: int, seconds: float
) -> Written:
    took: list[float] = []
    begun = time.perf_counter()

    async def writer(number: int) -> None:
        done = 0
        while time.perf_counter() - begun < seconds:
            records = [make(number, done + n) for n in range(rows)]
            done += rows
            before = time.perf_counter()
            await store.commit(records)
            took.append((time.perf_counter() - before) * 1000)

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    passed = time.perf_counter() - begun
    cuts = statistics.quantiles(took, n=100)
    return Written(
        rows_a_second=len(took) * rows / passed, p50_ms=cuts[49], p99_ms=cuts[98], commits=len(took)
    )


def _mean(parts: Sequence[Written]) -> Written:
    return Written(
        rows_a_second=statistics.mean(part.rows_a_second for part in parts),
        p50_ms=statistics.mean(part.p50_ms for part in parts),
        p99_ms=max(part.p99_ms for part in parts),
        commits=sum(part.commits for part in parts),
    )


@asynccontextmanager
async def _heavy(store: Store) -> AsyncGenerator[None]:
    """Keep one query running: the next begins when one has ended, by itself or by its limit."""

    async def ask() -> None:
        while True:
            with contextlib.suppress(QueryRefused):
                await store.sql(HEAVY, [], 1)

    asking = asyncio.ensure_future(ask())
    try:
        await asyncio.sleep(0.5)  # it has its copy by then
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@asynccontextmanager
async def _writing(store: Store, times: list[float]) -> AsyncGenerator[None]:
    async def write(writer: int) -> None:
        number = 0
        while True:
            number += 1
            before = time.perf_counter()
            await store.commit([event_of(writer, number), AuditRecord(kind="pair")])
            times.append((time.perf_counter() - before) * 1000)
            await asyncio.sleep(0.002)  # a load, not a race for the processor

    writers = [asyncio.ensure_future(write(number)) for number in range(COPY_WRITERS)]
    try:
        yield
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)


class _Timed(Copies):
    """Copies as a store makes them, in a place of their own; says how long each held it still."""

    def __init__(self, store: Store, directory: Path, place: Path) -> None:
        super().__init__(directory, store._process)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._snapshots = place
        self.held_ms: list[float] = []

    @override
    def _add(self, directory: Path, seq: int) -> Snapshot | Mark:
        begun = time.perf_counter()
        try:
            return super()._add(directory, seq)
        finally:
            self.held_ms.append((time.perf_counter() - begun) * 1000)


def _whole(place: Path, wanted: int) -> bool:
    with duckdb.connect(str(place / FILE_NAME), read_only=True) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM log), (SELECT max(seq) FROM log),"
            " (SELECT count(*) FROM event_row WHERE starts_with(task_id::VARCHAR, '00000000-0000'))"
            " - (SELECT count(*) FROM audit_row WHERE kind = 'pair')"
        ).fetchone()
    return row is not None and row[0] == row[1] >= wanted and row[2] == 0
