"""Damaged, half-copied, newer and busy stores: each is named, none is called verified.

Real DuckDB files. What a crash leaves is copied while the store is open: a database file, a
write-ahead log, a journal and a head file.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cmesh.errors import SchemaTooNew, StoreBusy
from cmesh.interfaces.cli.app import main
from cmesh.store.store import Store
from tests.security.tampering import write_store
from tests.unit.store.support import FixedClock, event, state, task

FLIPS = 16
WHOLE, DAMAGED, TOO_NEW, BUSY, BROKEN = 0, 73, 72, 71, 76
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Written:
    """Two stores: closed in peace, and as a killed daemon leaves one; with their last rows."""

    closed: Path
    crashed: Path
    rows: int
    crashed_rows: int


async def write(base: Path) -> Written:
    closed, live = base / "closed", base / "live"
    for path in (closed, live):
        path.mkdir()
        await write_store(path / "store")
    store = await Store.open(live / "store", clock=FixedClock(), node="laptop")
    rows = store.head[0]
    try:
        for number in range(20):
            record = task(prompt=f"look again {number}")
            await store.commit([record, state(record, "sent"), event(record, 1)])
            if number == 10:  # what came so far is in the database's own log by now
                await store.verify()
        shutil.copytree(live / "store", base / "crashed" / "store")
        head = store.head[0]
    finally:
        await store.close()
    return Written(closed, base / "crashed", rows, head)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return asyncio.run(write(tmp_path_factory.mktemp("stores")))


class Check:
    """Copies a store, lets it be damaged, and runs `cmesh audit verify` on the copy."""

    def __init__(self, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._base = base
        self._capsys = capsys
        self._count = 0

    def copy(self, state: Path) -> Path:
        self._count += 1
        target = self._base / f"{self._count}"
        shutil.copytree(state, target)
        return target / "store"

    def __call__(self, store: Path) -> tuple[int, dict[str, Any]]:
        self._capsys.readouterr()
        status = main(["audit", "verify", "--store", str(store), "--json"])
        return status, json.loads(self._capsys.readouterr().out)


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    return Check(tmp_path, capsys)


def cut(path: Path, kept: float) -> None:
    os.truncate(path, int(path.stat().st_size * kept))


def flip(path: Path, chance: random.Random) -> str:
    """Turn one bit around, anywhere; return where."""
    data = bytearray(path.read_bytes())
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name} at {at}, bit {bit}"


def told(status: int, said: dict[str, Any]) -> str:
    """Return what was found, in words; empty = nothing."""
    if status == WHOLE:
        return ""
    error = said.get("error")
    return error["message"] if error else said["finding"]["what"]


def test_both_stores_are_whole_before_anything_is_done_to_them(
    written: Written, check: Check
) -> None:
    for state_dir, rows in (
        (written.closed, written.rows),
        (written.crashed, written.crashed_rows),
    ):
        status, said = check(check.copy(state_dir))
        assert (status, said["ok"], said["rows"]) == (WHOLE, True, rows)
    assert list(written.crashed.glob("store/journal-*"))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_write_ahead_log_without_its_end_is_made_good_by_the_journal_or_named(
    written: Written, check: Check, kept: float
) -> None:
    store = check.copy(written.crashed)
    wal = store / "store.duckdb.wal"
    assert wal.stat().st_size
    cut(wal, kept)
    status, said = check(store)
    assert (status, said["rows"]) == (WHOLE, written.crashed_rows)
    for journal in store.glob("journal-*"):
        journal.unlink()
    status, said = check(store)
    assert status in {BROKEN, DAMAGED}
    assert told(status, said)


@pytest.mark.parametrize("seed", range(2))
def test_no_flipped_bit_is_passed_over_where_it_changes_a_row(
    written: Written, check: Check, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(FLIPS // 2):
        state_dir, rows = (
            (written.crashed, written.crashed_rows)
            if number % 2
            else (written.closed, written.rows)
        )
        store = check.copy(state_dir)
        files = [one for one in sorted(store.iterdir()) if one.is_file() and one.stat().st_size]
        files = [one for one in files if one.name.startswith(("store.duckdb", "journal-", "head"))]
        where = flip(chance.choice(files), chance)
        status, said = check(store)
        # A bit that nothing is read from changes nothing; then every row is as it was.
        assert status in {WHOLE, DAMAGED, BROKEN}, (where, status, said)
        assert status != WHOLE or (said["ok"], said["rows"]) == (True, rows), where
        assert status == WHOLE or told(status, said), where


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_half_a_copy_of_the_database_is_named(written: Written, check: Check, kept: float) -> None:
    store = check.copy(written.closed)
    cut(store / "store.duckdb", kept)
    status, said = check(store)
    assert (status, bool(told(status, said))) == (DAMAGED, True)


def without(name: str) -> Callable[[Path], None]:
    def remove(store: Path) -> None:
        for path in store.glob(name):
            path.unlink()

    return remove


@pytest.mark.parametrize(
    ("leave_out", "said"),
    [
        (without("head"), "its head file is missing"),
        (without("journal-*"), "was acknowledged"),
        (without("store.duckdb"), ""),
        (without("store.duckdb.wal"), None),
    ],
)
def test_a_copy_that_lacks_a_file_is_named_or_whole(
    written: Written, check: Check, leave_out: Callable[[Path], None], said: str | None
) -> None:
    store = check.copy(written.crashed)
    leave_out(store)
    status, found = check(store)
    if said is None:  # the journal has all that the database's own log had
        assert (status, found["rows"]) == (WHOLE, written.crashed_rows)
    else:
        assert status in {BROKEN, DAMAGED}
        assert said in told(status, found)


def test_a_newer_schema_and_a_newer_file_of_duckdb_are_named_and_left_alone(
    written: Written, check: Check
) -> None:
    store = check.copy(written.closed)
    with duckdb.connect(str(store / "store.duckdb")) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99, now(), '9.9')")
    before = (store / "store.duckdb").read_bytes()
    status, said = check(store)
    assert (status, said["error"]["code"]) == (TOO_NEW, "schema_too_new")
    assert (store / "store.duckdb").read_bytes() == before

    async def opened() -> None:
        with pytest.raises(SchemaTooNew):
            await Store.open(store, clock=FixedClock(), node="laptop")

    asyncio.run(opened())
    store = check.copy(written.closed)
    data = bytearray((store / "store.duckdb").read_bytes())
    data[12] = 250  # DuckDB's storage version, behind a checksum of 8 bytes and its magic word
    (store / "store.duckdb").write_bytes(data)
    status, said = check(store)
    assert status in {DAMAGED, TOO_NEW}, said
    assert said["error"]["message"]


def test_two_daemons_and_a_check_beside_one_are_refused(written: Written, check: Check) -> None:
    store = check.copy(written.closed)

    async def twice() -> dict[str, Any]:
        live = await Store.open(store, clock=FixedClock(), node="laptop")
        try:
            with pytest.raises(StoreBusy):
                await Store.open(store, clock=FixedClock(), node="laptop")
            status, said = await asyncio.to_thread(check, store)
            assert status == BUSY
            return said
        finally:
            await live.close()

    assert asyncio.run(twice())["error"]["code"] == "store_busy"
    assert check(store)[0] == WHOLE


def test_on_a_read_only_disk_a_store_is_checked_and_nothing_is_written(
    written: Written, check: Check, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no `unshare` on this machine")
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a read-only mount needs user namespaces here")
    store = check.copy(written.crashed)
    mounted = ("unshare", "-rm", "sh", "-c", READ_ONLY, str(store.parent))
    argv = (sys.executable, "-m", "cmesh", "audit", "verify", "--store", str(store), "--json")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for break_it, expected in ((None, WHOLE), (without("journal-*"), BROKEN)):
        if break_it is not None:
            break_it(store)
        before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
        done = subprocess.run(
            [*mounted, *argv],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        assert done.returncode == expected, done.stderr + done.stdout
        assert json.loads(done.stdout)["ok"] is (expected == WHOLE)
        assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
        assert not list(temporary.iterdir())
