"""SQL that means harm, through the store's own way: nothing gets through, and it says why.

The attempts are those of the research that this design rests on, and what was tried since. They
share a store, and each is followed by a question that must still be answered.
"""

# pyright: reportPrivateUsage=false
import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import duckdb
import pytest

from cmesh.clock import SystemClock
from cmesh.errors import QueryRefused, RemoteProtocolError, SandboxUnavailable
from cmesh.sandbox.tier import Enforcement
from cmesh.store import confined
from cmesh.store.records import AuditRecord
from cmesh.store.sql import QueryLimits
from cmesh.store.store import Store
from tests.security.sql_attempts import BOMBS, ESCAPES, HARMLESS, TOO_LONG
from tests.unit.store.support import event, result, state, task

pytestmark = [pytest.mark.anyio, pytest.mark.system]

LIMITS = QueryLimits(engine_s=0.4, wall_s=1.0, cpu_s=5, address_bytes=1536 * 1024**2)
"""Short ones: that a limit holds does not depend on where it is."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(
        tmp_path / "state", clock=SystemClock(), node="nSELF", query_limits=LIMITS
    )
    asked = task(prompt="find the fault")
    await store.commit([asked, event(asked, 1), state(asked, "succeeded"), result(asked)])
    yield store
    await store.close()


async def test_nothing_but_reading_rows_works(store: Store, tmp_path: Path) -> None:
    out, before = tmp_path / "out", store.head
    for text in ESCAPES:
        rows, said = await _asked(store, text.replace("{out}", str(out)))
        assert rows is None, f"{text}: {rows}"
        assert said.strip()
        assert "\n" not in said
        assert str(tmp_path) not in said.replace(str(out), ""), text
    assert not out.exists()
    assert store.head == before
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]
    await store.commit([task()])
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[2]]
    assert (await store.verify()).bad_seq is None


async def test_what_answers_tells_nothing_of_this_machine(store: Store, tmp_path: Path) -> None:
    held = (await store.sql("SELECT 1", [], 1)).held_by
    for text in HARMLESS:
        rows, said = await _asked(store, text)
        if held.startswith(("tier1", "tier3")):  # by a weaker sandbox the place of the copy shows
            assert str(tmp_path) not in f"{rows} {said}", text
        assert "/root" not in f"{rows} {said}", text
        assert os.uname().nodename not in f"{rows} {said}", text
    # What a session leaves behind is gone with it.
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]


async def test_a_query_that_takes_too_much_ends_by_a_limit_with_a_name(store: Store) -> None:
    for text, limit in BOMBS:
        refused = asyncio.ensure_future(store.sql(text, [], 10))
        await store.commit([AuditRecord(kind="meanwhile")])
        with pytest.raises(QueryRefused) as caught:
            await refused
        assert "limit of" in caught.value.message, (text, caught.value.message)
        assert limit in caught.value.message, (text, caught.value.message)
    for text in TOO_LONG:
        with pytest.raises(QueryRefused, match="limit of 65536 bytes"):
            await store.sql(text, [], 10)
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]
    assert (await store.verify()).bad_seq is None


async def test_a_query_process_has_its_copy_and_nothing_else(store: Store, tmp_path: Path) -> None:
    rows = await store.sql("SELECT 1", [], 1)
    if rows.held_by == "none":
        pytest.skip("no sandbox on this machine")
    worker = store._queries._worker
    assert worker is not None
    [pid] = [pid for pid in _group(worker._pid) if b"query_worker.py" in _proc(pid, "cmdline")]
    assert {part.partition(b"=")[0] for part in _proc(pid, "environ").split(b"\0")} <= {
        b"HOME",
        b"LC_ALL",
        b"",
    }
    _assert_held(pid, rows.held_by)
    assert {str(link.readlink()) for link in _descriptors(pid)} - {"/dev/null"} <= {
        f"socket:[{_inode(pid, 0)}]",
        "/snapshot/store.duckdb",
        f"{worker.directory.resolve()}/store.duckdb",
    }
    place = worker.directory.parent
    await store.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not place.exists()
    assert not list((tmp_path / "state" / "snapshots").glob("*"))


async def test_what_reads_the_files_of_others_is_held_like_a_query(
    store: Store, tmp_path: Path
) -> None:
    async with store.answer_files() as files:
        await files.write(await store.sql("SELECT 1 AS a", [], 1), tmp_path / "file", 100_000)
        found = await files.read(tmp_path / "file", 10, 100_000)
        if found.held_by == "none":
            pytest.skip("no sandbox on this machine")
        assert files._starting is not None
        process = await files._starting
        [pid] = [
            pid for pid in _group(process._pid) if b"answer_worker.py" in _proc(pid, "cmdline")
        ]
        _assert_held(pid, found.held_by)
        opened = {str(link.readlink()) for link in _descriptors(pid)} - {"/dev/null"}
        assert opened <= {f"socket:[{_inode(pid, 0)}]"}  # no file of a machine stays open
        assert not list(process.directory.iterdir())
    assert not Path(f"/proc/{pid}").exists()
    assert not process.directory.exists()


async def test_a_file_that_is_a_bomb_costs_itself_alone_without_a_sandbox_too(
    store: Store, tmp_path: Path
) -> None:
    bomb = "COPY (SELECT repeat('a', 5000000) AS s FROM range(500)) TO '{}' (FORMAT parquet, COMPRESSION zstd)"
    with duckdb.connect(":memory:") as connection:
        await asyncio.to_thread(connection.execute, bomb.format(tmp_path / "bomb"))
    store._confinement.found = Enforcement(why="none here")
    async with store.answer_files() as files:
        await files.write(await store.sql("SELECT 1 AS a", [], 1), tmp_path / "file", 100_000)
        with pytest.raises(RemoteProtocolError):
            await files.read(tmp_path / "bomb", 500, 2**40)
        found = await files.read(tmp_path / "file", 10, 100_000)
    assert (found.rows, found.held_by) == ([[1]], "none")


@pytest.mark.parametrize("error", [OSError, SandboxUnavailable])
async def test_a_process_that_does_not_start_leaves_nothing_and_tells_no_path(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def failing(*_arguments: object) -> int:
        raise error(f"no such program: `{tmp_path}/python`")

    monkeypatch.setattr(confined, "start", failing)
    monkeypatch.setattr(confined, "_start_unheld", failing)
    with pytest.raises(QueryRefused, match="did not start") as caught:
        await store.sql("SELECT 1", [], 1)
    assert "/" not in caught.value.message
    assert not list((tmp_path / "state" / "snapshots").glob("query-*"))


async def test_without_a_sandbox_it_runs_by_limits_and_says_so(store: Store) -> None:
    store._confinement.found = Enforcement(why="none here")
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).held_by == "none"
    for text in (
        "COPY (SELECT 1) TO 'store.duckdb' (FORMAT csv, USE_TMP_FILE false)",
        *ESCAPES[:9],
    ):
        with pytest.raises(QueryRefused):
            await store.sql(text.replace("{out}", "/tmp/cmesh-out"), [], 10)
    with pytest.raises(QueryRefused, match="limit of"):
        await store.sql("SELECT sleep_ms(60000)", [], 1)
    assert (await store.sql("SELECT count(*) FROM tasks", [], 1)).rows == [[1]]


async def _asked(store: Store, text: str) -> tuple[list[list[object]] | None, str]:
    """Return the rows, or why there are none."""
    try:
        return (await store.sql(text, [], 10_000)).rows, ""
    except QueryRefused as error:
        return None, error.message


def _proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


def _assert_held(pid: int, held_by: str) -> None:
    limits, status = _proc(pid, "limits").decode(), _proc(pid, "status").decode()
    assert "Max file size             0                    0" in limits
    assert f"Max data size             {LIMITS.data_bytes} " in limits
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    if held_by.startswith("tier3"):
        own = Path(f"/proc/{pid}/ns")
        for kind in ("net", "mnt", "pid", "user", "ipc"):
            assert (own / kind).readlink() != Path(f"/proc/self/ns/{kind}").readlink()


def _inode(pid: int, fd: int) -> int:
    return Path(f"/proc/{pid}/fd/{fd}").stat().st_ino


def _group(leader: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader:
            found.append(int(path.name))
    return found
