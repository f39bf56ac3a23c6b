"""Abuse 25: somebody who owns the file edits the audit; `cmesh audit verify` names the row."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from cmesh.errors import StoreBusy
from cmesh.interfaces.audit import check_store
from cmesh.interfaces.cli.app import main
from cmesh.store.store import Store
from tests.security.tampering import Edited, run, write_store
from tests.unit.store.support import FixedClock, task

pytestmark = pytest.mark.anyio

EDITS = 30
SEEDS = range(5)
COPIES = 5


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    directory = tmp_path / "state" / "store"
    directory.parent.mkdir()
    await write_store(directory)
    return directory


def missed(edits: list[Edited]) -> list[str]:
    return [f"{edit.kind}: {edit.words}" for edit in edits if edit.missed]


@pytest.mark.parametrize("seed", SEEDS)
async def test_25_every_random_edit_is_found(store: Path, seed: int) -> None:
    assert missed(run(store, EDITS, seed)) == []


async def test_25_a_check_that_does_not_look_would_be_noticed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*_: object) -> None:
        """Compare nothing."""

    for part in ("store.verify._Walk._text", "store.audit._books", "store.audit._stranger"):
        monkeypatch.setattr(f"cmesh.{part}", blind)
    assert missed(run(store, EDITS, SEEDS[0]))


async def test_25_a_whole_store_is_said_to_be_whole(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify", "--store", str(store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["finding"], told["live"]) == (True, None, False)
    assert told["rows"] == told["head_seq"]
    # One of the six ends was erased, with its two signatures.
    assert (told["signatures"], told["signatures_unknown"]) == (13, 0)
    assert told["erased"] > 0
    before = sorted(path.name for path in store.iterdir())
    assert main(["audit", "verify", "--store", str(store)]) == 0
    assert "as it was written" in capsys.readouterr().out
    assert sorted(path.name for path in store.iterdir()) == before


def change(statement: str) -> Callable[[Path], None]:
    def edit(store: Path) -> None:
        with duckdb.connect(str(store / "store.duckdb")) as connection:
            connection.execute(statement)

    return edit


def older_head(store: Path) -> None:
    (store / "head").unlink()


def other_output(store: Path) -> None:
    name = "ab" * 32
    (store / "blobs" / "ab").mkdir(parents=True)
    (store / "blobs" / "ab" / name).write_bytes(b"forged")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("UPDATE result_row SET exit_code = 1 WHERE seq = 10"), "row 10 (result of task"),
        (change("UPDATE result_row SET exit_code = 1 WHERE seq = 10"), "`exit_code` is `1`"),
        (change("DELETE FROM log WHERE seq = 12"), "row 12: it is missing"),
        (change("UPDATE event_row SET text = 'nothing' WHERE seq = 7"), "row 7 (event of task"),
        (change("CREATE MACRO sha256(x) AS 'ab'"), "`sha256` that cmesh did not make"),
        (older_head, "head file is missing"),
        (other_output, "is not what its name says"),
    ],
)
async def test_25_what_is_wrong_is_named_and_the_status_says_so(
    store: Path, capsys: pytest.CaptureFixture[str], edit: Callable[[Path], None], said: str
) -> None:
    edit(store)
    assert main(["audit", "verify", "--store", str(store)]) == 76
    assert said in capsys.readouterr().out


async def test_25_a_signature_of_another_key_is_found_where_the_chain_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object) -> bytes:
        return b"something else"

    monkeypatch.setattr("tests.security.tampering.head_bytes", other)
    directory = tmp_path / "state" / "store"
    directory.parent.mkdir()
    await write_store(directory)
    finding = check_store(directory).report.finding
    assert finding is not None
    assert (finding.kind, finding.what) == ("receipt", "its signature is not the peer's")


async def test_25_rows_that_only_the_journal_holds_are_checked_too(
    store: Path, tmp_path: Path
) -> None:
    live = await Store.open(store, clock=FixedClock(), node="laptop")
    copies: list[tuple[Path, int]] = []
    try:
        # The database takes the rows of the journal within a second, perhaps before the copy.
        for attempt in range(COPIES):
            await live.commit([task()])
            copies.append((tmp_path / f"crashed-{attempt}" / "store", live.head[0]))
            shutil.copytree(store, copies[-1][0])
        with pytest.raises(StoreBusy):
            await asyncio.to_thread(check_store, store)
    finally:
        await live.close()
    lost: list[str] = []
    for crashed, head in copies:
        good = check_store(crashed).report
        assert (good.finding, good.rows) == (None, head)
        for journal in crashed.glob("journal-*"):
            os.truncate(journal, 64)
        finding = check_store(crashed).report.finding
        lost += [finding.what] if finding and f"row {head} was acknowledged" in finding.what else []
    assert lost


async def test_25_a_file_that_is_no_database_is_told_by_its_code(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "store.duckdb").write_bytes(b"x" * 20_000)
    assert main(["audit", "verify", "--store", str(store), "--json"]) == 73
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "store_damaged"
    done = subprocess.run(
        [sys.executable, "-m", "cmesh", "audit", "verify", "--store", str(store.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "there is no store in" in done.stderr
