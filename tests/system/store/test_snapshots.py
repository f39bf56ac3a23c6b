"""Copies for queries: whole, of one commit, and cheap however large the store is."""

# pyright: reportPrivateUsage=false
import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import duckdb
import pytest

from cmesh.clock import SystemClock
from cmesh.store import copies as copies_module
from cmesh.store import snapshot as snapshot_module
from cmesh.store.database import WAL_CAP_BYTES
from cmesh.store.records import AuditRecord
from cmesh.store.snapshot import FILE_NAME, Base, Mark
from cmesh.store.store import Store
from tests.unit.store.support import event, task

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SNAPSHOTS = 25
WRITERS = 4
LONG = "x" * 60_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "state", clock=SystemClock(), node="nSELF")
    yield store
    await store.close()


async def test_each_of_many_snapshots_under_write_load_is_whole(
    store: Store, tmp_path: Path
) -> None:
    copies = store._copies
    inodes: set[int] = set()
    async with _writing(store):
        for number in range(SNAPSHOTS):
            place = tmp_path / f"copy-{number}"
            place.mkdir()
            before = store.head[0]
            taken = await copies.take(place)
            rows, last, pairs = await asyncio.to_thread(_look, place)
            assert rows == last == taken.seq >= before
            assert pairs == 0  # a commit is in it whole, or not at all
            inodes.add((place / FILE_NAME).stat().st_ino)
    # Without a checkpoint in between they share one copy of the main file.
    assert len(inodes) <= 1 + store._process.checkpoints


async def test_the_log_of_writes_is_capped_and_a_checkpoint_makes_a_new_base(
    store: Store, tmp_path: Path
) -> None:
    copies, wal = store._copies, tmp_path / "state" / f"{FILE_NAME}.wal"
    asked = task()
    await store.commit([asked])
    seen: list[int] = []
    for number in range(8):
        await store.commit([event(asked, number * 100 + n, text=LONG) for n in range(1, 101)])
        place = tmp_path / f"copy-{number}"
        place.mkdir()
        taken = await copies.take(place)
        assert _look(place)[:2] == (taken.seq, taken.seq)
        seen.append((place / FILE_NAME).stat().st_ino)
        # The cap is looked at after each commit, so at most one is beyond it.
        assert not wal.exists() or wal.stat().st_size < WAL_CAP_BYTES + 101 * len(LONG)
    assert store._process.checkpoints >= 2
    assert 1 < len(set(seen)) <= 1 + store._process.checkpoints + 1


async def test_a_checkpoint_while_the_main_file_is_copied_costs_a_second_copy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit([task()])
    made: list[Path] = []
    loop = asyncio.get_running_loop()

    def copy(database: Path, directory: Path, mark: Mark) -> Base:
        base = snapshot_module.copy_base(database, directory, mark)
        made.append(directory)
        if len(made) == 1:
            asyncio.run_coroutine_threadsafe(_checkpoint(store), loop).result()
        return base

    monkeypatch.setattr(copies_module, "copy_base", copy)
    taken = await store._copies.take(tmp_path)
    assert len(made) == 2
    assert not made[0].exists()
    assert _look(tmp_path)[:2] == (taken.seq, taken.seq)
    assert taken.seq == store.head[0]


async def test_rows_come_in_while_the_main_file_is_copied_and_no_checkpoint_does(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task()
    await store.commit([asked])
    loop = asyncio.get_running_loop()

    async def write() -> int:
        for first in range(1, 400, 100):
            await store.commit([event(asked, n, text=LONG) for n in range(first, first + 100)])
        return len(await store.events(asked.task_id, after=0, limit=1000))

    def copy(database: Path, directory: Path, mark: Mark) -> Base:
        before = store._process.checkpoints
        assert asyncio.run_coroutine_threadsafe(write(), loop).result() == 400
        assert store._process.checkpoints == before
        return snapshot_module.copy_base(database, directory, mark)

    monkeypatch.setattr(copies_module, "copy_base", copy)
    taken = await store._copies.take(tmp_path)
    assert _look(tmp_path)[:2] == (taken.seq, taken.seq) == (store.head[0], store.head[0])
    await store.commit([AuditRecord(kind="after")])
    await store.verify()
    assert store._process.checkpoints  # what was held back is made up for


async def test_a_whole_copy_shares_nothing_with_those_of_queries(
    store: Store, tmp_path: Path
) -> None:
    await store.commit([task()])
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]
    copy = await store.copy()
    assert (copy / FILE_NAME).stat().st_nlink == 1
    with duckdb.connect(str(copy / FILE_NAME)) as connection:
        connection.execute("DELETE FROM task_row")
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]
    await store.commit([task()])
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[2]]


async def test_a_file_system_without_links_costs_copies_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    await store.commit([task()])
    taken = await store._copies.take(tmp_path)
    assert _look(tmp_path)[:2] == (taken.seq, taken.seq)


@asynccontextmanager
async def _writing(store: Store) -> AsyncGenerator[None]:
    async def write() -> None:
        asked = task()
        await store.commit([asked])
        number = 0
        while True:
            number += 1
            await store.commit([event(asked, number), AuditRecord(kind="pair")])

    writers = [asyncio.ensure_future(write()) for _ in range(WRITERS)]
    yield
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)


async def _checkpoint(store: Store) -> None:
    process = store._process
    await process._alone(lambda: process._ask("checkpoint"))


def _look(place: Path) -> tuple[int, int, int]:
    """Return how many rows the copy has, the last one's number, and how many commits are torn."""
    with duckdb.connect(str(place / FILE_NAME), read_only=True) as connection:
        row = connection.execute(
            "SELECT count(*), max(seq), (SELECT count(*) FROM event_row)"
            " - (SELECT count(*) FROM audit_row WHERE kind = 'pair') FROM log"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])
