"""The database process: killed, idle, orphaned; whatever happens to it, no answer is wrong."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from typing_extensions import override

from cmesh.clock import SystemClock
from cmesh.errors import StoreError
from cmesh.locks import FileLock
from cmesh.store.database_worker import LOCK_FILE
from cmesh.store.exchange import Reader
from cmesh.store.store import Store
from tests.unit.store.support import event, task, tasks_in_the_file

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[3]
LIMIT_S = 60.0
POLL_S = 0.005
MANY = 20_000
SOON_S = 0.05
FAR_S = 3600.0


class InProcess:
    """A read given as source text, for what no query of the store's own would do."""

    def __init__(self, source: str) -> None:
        self._source = source

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return eval, (self._source,)

    def __call__(self, cursor: Reader) -> int:
        raise AssertionError("this runs in the database process only")


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Store]:
    """A store whose process neither takes rows nor ends by itself."""
    store = await _open(tmp_path / "state")
    _set(store, linger_s=FAR_S, idle_s=FAR_S)
    yield store
    await store.close()


async def test_killed_while_it_takes_rows_it_loses_none(empty: Store, tmp_path: Path) -> None:
    asked = task()
    await empty.commit([asked])
    for first in range(1, MANY, 1000):
        await empty.commit([event(asked, n) for n in range(first, first + 1000)])
    wal, old = tmp_path / "state" / "store.duckdb.wal", _pid(empty)
    before = _size(wal)
    reading = asyncio.ensure_future(empty.verify())
    await _until(lambda: _size(wal) > before)
    assert not reading.done()
    os.kill(old, signal.SIGKILL)
    checked = await reading
    assert (checked.rows, checked.bad_seq, checked.head_ok) == (empty.head[0], None, True)
    assert _pid(empty) != old
    events = await empty.events(asked.task_id, after=0, limit=MANY)
    assert [one.seq for one in events] == list(range(1, MANY + 1))


@pytest.mark.parametrize(
    "death",
    [
        "__import__('os').kill(__import__('os').getpid(), 9)",
        "cursor.execute('SELECT error(1)')",
        "(_ for _ in ()).throw(__import__('duckdb').FatalException('dead'))",
    ],
)
async def test_a_read_that_it_did_not_survive_is_made_again(
    empty: Store, tmp_path: Path, death: str
) -> None:
    await empty.commit([task()])
    once, old = tmp_path / "once", _pid(empty)
    read = InProcess(
        f"lambda cursor: ({death} if not __import__('os').path.exists({str(once)!r})"
        f" and open({str(once)!r}, 'w') else"
        " cursor.execute('SELECT count(*) FROM task_row').fetchone()[0])"
    )
    assert await empty._process.read(read) == 1  # pyright: ignore[reportPrivateUsage]
    assert _pid(empty) != old


async def test_a_read_that_always_kills_it_fails_and_hurts_no_other(empty: Store) -> None:
    read = InProcess("lambda cursor: __import__('os').kill(__import__('os').getpid(), 9)")
    await empty.commit([task()])
    with pytest.raises(StoreError, match="process ended"):
        await empty._process.read(read)  # pyright: ignore[reportPrivateUsage]
    assert (await empty.verify()).bad_seq is None
    assert len(await tasks_in_the_file(empty, limit=9)) == 1


@pytest.mark.parametrize("kept", [0, 0.5])
async def test_a_write_ahead_log_that_lost_its_end_is_made_good_from_the_journal(
    empty: Store, tmp_path: Path, kept: float
) -> None:
    for _ in range(20):
        await empty.commit([task()])
        await empty.verify()
    wal = tmp_path / "state" / "store.duckdb.wal"
    os.kill(_pid(empty), signal.SIGKILL)
    os.truncate(wal, int(_size(wal) * kept))
    checked = await empty.verify()
    assert (checked.rows, checked.bad_seq, checked.head_ok) == (empty.head[0], None, True)
    assert len(await tasks_in_the_file(empty, limit=99)) == 20


async def test_idle_it_ends_with_a_whole_file_and_starts_again_when_needed(
    empty: Store, tmp_path: Path
) -> None:
    _set(empty, linger_s=SOON_S, idle_s=SOON_S)
    await empty.commit([task(), task()])
    await _until(lambda: empty._process.pid is None)  # pyright: ignore[reportPrivateUsage]
    await _until(lambda: empty._process._at_rest)  # pyright: ignore[reportPrivateUsage]
    assert not _size(tmp_path / "state" / "store.duckdb.wal")
    with duckdb.connect(str(tmp_path / "state" / "store.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT max(seq) FROM log").fetchone() == (empty.head[0],)
    _set(empty, linger_s=FAR_S, idle_s=FAR_S)
    assert (await empty.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[2]]
    assert len(await empty.tasks(limit=9)) == 2
    assert empty._process.pid is None  # pyright: ignore[reportPrivateUsage]
    await empty.commit([task()])
    assert (await empty.verify()).rows == empty.head[0]
    assert (await empty.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[3]]


async def test_a_store_that_closes_at_rest_leaves_no_journal(empty: Store, tmp_path: Path) -> None:
    _set(empty, linger_s=SOON_S, idle_s=SOON_S)
    await empty.commit([task()])
    await _until(lambda: empty._process._at_rest)  # pyright: ignore[reportPrivateUsage]
    head = empty.head
    await empty.close()
    assert not list((tmp_path / "state").glob("journal-*"))
    again = await _open(tmp_path / "state")
    assert again.head == head
    await again.close()


async def test_it_dies_with_the_daemon_even_when_it_can_do_nothing_itself(tmp_path: Path) -> None:
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.system.store.committer", str(tmp_path / "state"), "1"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert daemon.stdout is not None
    assert await daemon.stdout.readline()
    [child] = _children(daemon.pid)
    os.kill(child, signal.SIGSTOP)
    daemon.kill()
    await daemon.stdout.read()
    await daemon.wait()
    await _until(lambda: not _runs(child))
    again = await _open(tmp_path / "state")
    assert (await again.verify()).bad_seq is None
    await again.close()


async def test_the_next_one_waits_until_the_last_one_is_gone(tmp_path: Path) -> None:
    await (await _open(tmp_path / "state")).close()
    lock = FileLock(tmp_path / "state" / LOCK_FILE)
    lock.acquire()
    before = _children(os.getpid())
    opening = asyncio.ensure_future(_open(tmp_path / "state"))
    await _until(lambda: _children(os.getpid()) != before)
    assert not opening.done()
    lock.release()
    await (await opening).close()


DAEMON = """
import asyncio, sys
from pathlib import Path
import cmesh.daemon.app, cmesh.interfaces.serve
from cmesh.clock import SystemClock
from cmesh.errors import QueryRefused
from cmesh.store.store import Store
from tests.unit.store.support import event, task, tasks_in_the_file

async def use_it_all():
    store = await Store.open(Path(sys.argv[1]), clock=SystemClock(), node="nSELF")
    asked = task(key="once")
    await store.commit([asked, event(asked, 1)])
    assert len(await tasks_in_the_file(store, limit=9)) == 1
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]
    try:
        await store.sql("SELECT * FROM taskz", [], 1)
    except QueryRefused:
        pass
    assert (await store.verify()).bad_seq is None
    await store.close()

asyncio.run(use_it_all())
print([name for name in sys.modules if "duckdb" in name])
print("duckdb" in Path("/proc/self/maps").read_text())
"""


async def test_the_daemon_itself_never_loads_duckdb(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", DAEMON, str(tmp_path / "state")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout.split() == ["[]", "False"], done.stderr[-2000:]


async def _open(directory: Path) -> Store:
    return await Store.open(directory, clock=SystemClock(), node="nSELF")


def _set(store: Store, *, linger_s: float, idle_s: float) -> None:
    process = store._process  # pyright: ignore[reportPrivateUsage]
    process._options = replace(  # pyright: ignore[reportPrivateUsage]
        process._options,  # pyright: ignore[reportPrivateUsage]
        linger_s=linger_s,
        idle_s=idle_s,
    )


def _pid(store: Store) -> int:
    pid = store._process.pid  # pyright: ignore[reportPrivateUsage]
    assert pid is not None
    return pid


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in path.read_text().split()]
    return found


def _runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def _until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not met():
            await asyncio.sleep(POLL_S)
