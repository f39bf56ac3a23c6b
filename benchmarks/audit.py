"""What the audit costs: questions, their answers' ways, writing, checking, copies, its size.

One store of many finished tasks serves all but the writing. Every figure has the load of the
machine beside it, since most are times; ratios are of times in the same run.
"""

import asyncio
import hashlib
import math
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import duckdb

from benchmarks.audit_load import (
    Copied,
    Written,
    audit_of,
    copies_under_load,
    event_of,
    opened,
    written,
)
from benchmarks.audit_queries import QUESTIONS
from benchmarks.old_tasks import LAST_DAY, Filled, copy_to_sqlite, fill
from benchmarks.stage import Stage
from benchmarks.table import Row, timing
from cmesh.model import TaskId
from cmesh.store.chain import GENESIS, link
from cmesh.store.head import read_head
from cmesh.store.snapshot import FILE_NAME
from cmesh.store.store import Store
from cmesh.store.texts import ERASABLE, is_empty
from cmesh.store.verify import verify

__all__ = ["measure"]

FULL, TASKS, QUICK_TASKS, SMALL_TASKS = 100, 100_000, 5_000, 5_000
COPIES, QUICK_COPIES, PAUSES = 1_000, 50, 20
ROUNDS, WARM, SHOWN = 5, 60, 40
WRITE_S, QUICK_WRITE_S = 16.0, 4.0
RANGE_ROWS = 50_000
# The engine of a query: `cmesh/store/confined_main.py`.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "async_threads": 1,
    "memory_limit": "256MB",
}
_SQL = {
    "the denials of a day": "SELECT count(*) FROM denials WHERE ts > TIMESTAMPTZ '{day}'",
    "cost by runner": "SELECT runner, sum(cost_usd) FROM costs GROUP BY ALL",
    "the latest tasks with their states": "SELECT task_id, state, peer FROM tasks"
    " ORDER BY created_at DESC LIMIT 10",
}


async def measure(made: Stage, count: int) -> list[Row]:
    """Return all figures; some eight minutes with all tasks, one with few."""
    quick = count < FULL
    with tempfile.TemporaryDirectory(prefix="audit-", dir=made.base) as name:
        base = Path(name)
        rows = await _writing(base, QUICK_WRITE_S if quick else WRITE_S)
        store = base / "store"
        filled = await asyncio.to_thread(fill, store, QUICK_TASKS if quick else TASKS)
        rows += await asyncio.to_thread(_questions, store, base / "sqlite", filled)
        rows += await asyncio.to_thread(_verified, store, filled)
        async with opened(store) as whole:
            rows += await _asked(whole, store)
            pauses = await copies_under_load(whole, store, PAUSES)
        size = (store / FILE_NAME).stat().st_size
        await asyncio.to_thread(shutil.rmtree, store)
        return rows + await _copies(base, pauses, size, QUICK_COPIES if quick else COPIES)


def _questions(store: Path, other: Path, filled: Filled) -> list[Row]:
    """Ask both the same, warm, and compare sizes."""
    bare, indexed = copy_to_sqlite(store / FILE_NAME, other)
    since = LAST_DAY - timedelta(days=30)
    ratios: list[float] = []
    rows: list[Row] = []
    engine = duckdb.connect(str(store / FILE_NAME), read_only=True, config=_CONFIG)
    engine.execute("SET TimeZone='UTC'")
    lite = sqlite3.connect(other)
    lite.execute("PRAGMA cache_size=-262144")
    for question in QUESTIONS:
        ours = question.duckdb.format(since=since.isoformat())
        theirs = question.sqlite.format(since=int(since.timestamp() * 1_000_000))
        own, lites = _in_turn(
            lambda q=ours: len(engine.execute(q).fetchall()),
            lambda q=theirs: len(lite.execute(q).fetchall()),
        )
        ratios.append(lites / own)
        rows.append(
            _figure(
                f"SQLite / DuckDB: {question.name}",
                lites / own,
                goal=">= 1 x",
                met=lites >= own,
                note=f"{own * 1000:.1f} and {lites * 1000:.1f} ms",
            )
        )
    engine.close()
    lite.close()
    mean = math.exp(statistics.mean(map(math.log, ratios)))
    about = f"{filled.tasks:,} tasks, {filled.events:,} events"
    rows.append(
        _figure("their geometric mean", mean, goal=">= 5 x", met=mean >= 5, note=about),
    )
    return rows + _sizes((store / FILE_NAME).stat().st_size, bare, indexed, filled)


def _sizes(own: int, bare: int, indexed: int, filled: Filled) -> list[Row]:
    mib = 1024**2
    return [
        Row(name="the store's file, chain included", unit="MiB", figures={"value": own / mib}),
        Row(name="SQLite with the same tables", unit="MiB", figures={"value": bare / mib}),
        Row(name="the same with its indexes", unit="MiB", figures={"value": indexed / mib}),
        _figure(
            "the store / SQLite with the same tables",
            own / bare,
            goal="<= 0.2 x",
            met=own * 5 <= bare,
            note=f"{own / filled.rows:.0f} bytes a row of the log",
        ),
    ]


def _verified(store: Path, filled: Filled) -> list[Row]:
    """Check the whole log, and hash all that this must hash."""
    head = read_head(store)
    assert head is not None
    config = {**_CONFIG, "memory_limit": "2GB"}
    with duckdb.connect(str(store / FILE_NAME), read_only=True, config=config) as connection:
        connection.execute("SET TimeZone='UTC'")
        begun, began = time.process_time(), time.perf_counter()
        found = verify(connection, head)
        took, passed = time.process_time() - begun, time.perf_counter() - began
        assert found.finding is None, found.finding
        alone = _hashed(connection, filled.rows)
    million = 1_000_000 / filled.rows
    return [
        Row(name="verify, for a million rows", unit="s", figures={"value": took * million}),
        Row(name="their SHA-256 alone", unit="s", figures={"value": alone * million}),
        _figure("verify / SHA-256 alone", took / alone, goal="<= 2 x", met=took <= 2 * alone),
        _figure(
            "the same in time passed, in two threads",
            passed / alone,
            goal="<= 2 x",
            met=passed <= 2 * alone,
        ),
    ]


def _hashed(connection: duckdb.DuckDBPyConnection, rows: int) -> float:
    """Return the processor time of all hashes and digests, of what was read already."""
    passed, previous = 0.0, GENESIS
    for first in range(1, rows + 1, RANGE_ROWS):
        span = [first, first + RANGE_ROWS - 1]
        log = "SELECT canon FROM log WHERE seq BETWEEN $1 AND $2 ORDER BY seq"
        canons = connection.execute(log, span).fetchall()
        texts = [pair for table in ERASABLE for pair in _hidden(connection, table, span)]
        begun = time.process_time()
        for (canon,) in canons:
            previous = link(previous, canon)
        for text in texts:
            hashlib.sha256(text.encode()).hexdigest()
        passed += time.process_time() - begun
    return passed


def _hidden(
    connection: duckdb.DuckDBPyConnection, table: str, span: Sequence[int]
) -> Iterator[str]:
    """Yield what a table's digests are of."""
    columns = sorted(ERASABLE[table])
    chosen = ", ".join(f'"{column}"::VARCHAR' for column in columns)
    rows = connection.execute(
        f"SELECT salt, {chosen} FROM {table} WHERE salt IS NOT NULL AND seq BETWEEN $1 AND $2",
        list(span),
    ).fetchall()
    for salt, *texts in rows:
        for column, text in zip(columns, texts, strict=True):
            if not is_empty(text):
                yield f"{salt}:{column}:{text}"


async def _asked(store: Store, directory: Path) -> list[Row]:
    """Show old tasks, and run SQL of users in a warm process."""
    del directory
    ids = await store.sql("SELECT task_id FROM tasks ORDER BY hash(task_id) LIMIT 100", [], 100)
    shown: list[float] = []
    for (task_id,) in random.Random(1).sample(ids.rows, SHOWN):
        begun = time.perf_counter()
        assert await store.task(TaskId(str(task_id)))
        shown.append(time.perf_counter() - begun)
    rows = [_timing("show: an old task, read back", shown, "p50 <= 2 ms", 2)]
    for name, text in _SQL.items():
        query = text.format(day=(LAST_DAY - timedelta(days=1)).isoformat())
        took: list[float] = []
        await store.sql(query, [], 100)
        for _ in range(WARM):
            begun = time.perf_counter()
            await store.sql(query, [], 100)
            took.append(time.perf_counter() - begun)
        rows.append(_timing(f"confined SQL, warm: {name}", took, "p50 <= 15 ms", 15))
    return rows


async def _writing(base: Path, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for rows_each in (1, 5):
        alone, beside = await written(base, event_of, rows=rows_each, seconds=seconds)
        rows += _written(f"events, {rows_each} a commit", alone, beside, 50_000, 10.0)
    alone, beside = await written(base, audit_of, rows=5, seconds=seconds)
    return rows + _written("audit rows, 5 a commit", alone, beside, 20_000, 0)


def _written(what: str, alone: Written, beside: Written, least: int, most_ms: float) -> list[Row]:
    slower = alone.rows_a_second / beside.rows_a_second
    goal = f">= {least:,} rows/s" + (f", p99 <= {most_ms:g} ms" if most_ms else "")
    fast = alone.rows_a_second >= least and (not most_ms or alone.p99_ms <= most_ms)
    return [
        Row(
            name=f"100 writers: {what}",
            unit="rows/s",
            figures={"value": alone.rows_a_second},
            goal=goal,
            met=fast,
            note=f"p50 {alone.p50_ms:.1f}, p99 {alone.p99_ms:.1f} ms; {_load()}",
        ),
        _figure(
            "beside a heavy query: times slower",
            slower,
            goal="< 1.5 x",
            met=slower < 1.5,
            note=f"p99 {beside.p99_ms:.1f} ms",
        ),
    ]


async def _copies(base: Path, large: Copied, size: int, count: int) -> list[Row]:
    """Compare the pauses with those of a small store, which the many copies are taken of."""
    directory = base / "small"
    await asyncio.to_thread(fill, directory, SMALL_TASKS)
    small_size = (directory / FILE_NAME).stat().st_size
    async with opened(directory) as store:
        small = await copies_under_load(store, directory, count)
    rows = [_pause(one, bytes_) for one, bytes_ in ((small, small_size), (large, size))]
    short = small.short + large.short
    return [
        *rows,
        Row(
            name=f"of {small.copies + large.copies:,} copies taken under load, not whole",
            unit="",
            figures={"value": short},
            goal="0",
            met=not short,
        ),
    ]


def _pause(copied: Copied, size: int) -> Row:
    commits = sorted(copied.commits_ms)
    p99 = commits[int(len(commits) * 0.99)]
    name = f"a copy of {size / 1024**2:.0f} MiB: no row goes into the database for"
    note = f"commits meanwhile: p99 {p99:.1f}, longest {commits[-1]:.1f} ms; {_load()}"
    row = timing(name, [held / 1000 for held in copied.held_ms])
    return Row(
        name=name,
        figures=row.figures | {"p95": max(copied.held_ms)},
        note=f"p95 is the longest; {note}",
    )


def _in_turn(one: Callable[[], int], other: Callable[[], int]) -> tuple[float, float]:
    """Return the least processor time in seconds of each, in runs in turn after a first one.

    Both have one thread and must give as many rows. Time would pass for other programs too.
    """
    assert one() == other()
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for times, work in zip(took, (one, other), strict=True):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
    return min(took[0]), min(took[1])


def _timing(name: str, seconds: Sequence[float], goal: str, limit_ms: float) -> Row:
    row = timing(name, seconds, goal=goal, limit_ms=limit_ms)
    return Row(name=name, figures=row.figures, goal=goal, met=row.met, note=_load())


def _figure(name: str, value: float, *, goal: str, met: bool, note: str = "") -> Row:
    note = f"{note}; {_load()}" if note else _load()
    return Row(name=name, unit="x", figures={"value": value}, goal=goal, met=met, note=note)


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"
