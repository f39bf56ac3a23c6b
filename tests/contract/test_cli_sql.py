"""`cmesh sql`: what reaches the daemon, and what comes of its answer in every form."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.daemon.fleet_view import SqlNodeView
from cmesh.errors import QueryRefused, UnknownPeer, UsageError
from cmesh.interfaces.cli.app import main
from cmesh.interfaces.cli.exits import CUT_EXIT
from tests.fakes.daemon import DaemonThread

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0
SHOWN_LIMIT_S = 60.0
PRESSED_LIMIT_S = 5.0
ROWS = SqlView(
    columns=["day", "usd", "peer", "n"],
    types=["DATE", "DECIMAL(10,2)", "VARCHAR", "BIGINT"],
    rows=[["2026-01-02", 1.25, "a\x1b[31m", 7], [None, None, None, None]],
    held_by="bubblewrap",
)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonThread]:
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        for name in ("STATE", "CONFIG"):
            monkeypatch.setenv(f"CMESH_{name}_DIR", f"{directory}/{name.lower()}")
        with DaemonThread() as running:
            running.operations.rows = ROWS
            yield running


def asked(daemon: DaemonThread) -> dict[str, object]:
    [call] = [args for name, _context, args in daemon.operations.calls if name == "sql"]
    return call.model_dump(exclude_unset=True)


def test_values_reach_the_daemon_beside_the_statement(daemon: DaemonThread):
    words = ["-p", "n=5", "--param", "who='; DROP", "-p", 'day="2026"', "-p", "all=true"]
    assert main(["sql", "SELECT $n", *words]) == 0
    found = asked(daemon)
    assert found["sql"] == "SELECT $n"
    assert found["parameters"] == {"n": 5, "who": "'; DROP", "day": "2026", "all": True}


def test_a_statement_comes_from_a_file_or_standard_input(
    daemon: DaemonThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "q.sql"
    file.write_bytes(b"\xef\xbb\xbfSELECT 1; -- \xc3\xa4\n")
    assert main(["sql", "-f", str(file)]) == 0
    assert asked(daemon)["sql"] == "SELECT 1; -- ä\n"
    daemon.operations.calls.clear()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"SELECT ?")))
    assert main(["sql", "-", "-p", "null"]) == 0
    assert asked(daemon) == asked(daemon) | {"sql": "SELECT ?", "parameters": [None]}


def test_bad_words_are_refused_before_anybody_is_asked(
    daemon: DaemonThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "rows"
    file.write_text("mine")
    (tmp_path / "latin").write_bytes(b"\xe4")
    for words in (
        ["SELECT 1", "--output", str(file)],
        ["SELECT 1", "--output", str(tmp_path), "--force"],
        ["SELECT 1", "--force"],
        ["SELECT 1", "-f", str(file)],
        ["SELECT 1", "--json", "--format", "csv"],
        ["SELECT 1", "--format", "xml"],
        ["SELECT 1", "-p", "a=1", "-p", "1"],
        ["SELECT 1", "--limit", "100001"],
        ["-f", str(tmp_path / "none")],
        ["-f", str(tmp_path / "latin")],
        ["-f", os.devnull],
        ["x" * 65_537],
        [],
    ):
        assert main(["sql", *words]) == UsageError.exit_status, words
        seen = capsys.readouterr()
        assert seen.err.startswith("error: ") or "error" in json.loads(seen.out)
    assert (file.read_text(), daemon.operations.calls) == ("mine", [])


def test_parquet_has_the_types_of_the_query(daemon: DaemonThread, tmp_path: Path):
    del daemon
    path = tmp_path / "rows.parquet"
    assert main(["sql", "SELECT 1", "--format", "parquet", "-o", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    with duckdb.connect() as connection:
        found = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
        assert found.description is not None
        assert [str(column[1]) for column in found.description] == ROWS.types
        first, second = found.fetchall()
    assert (first[0].isoformat(), str(first[1]), *first[2:]) == (
        "2026-01-02",
        "1.25",
        "a\x1b[31m",
        7,
    )
    assert second == (None,) * 4


@pytest.mark.parametrize(
    ("name", "words", "begins"),
    [
        ("rows.csv", [], b"day,usd,"),
        ("rows.JSON", [], b"["),
        ("rows.jsonl", [], b'{"day"'),
        ("rows.parquet", [], b"PAR1"),
        ("rows.txt", [], b"day\t"),
        ("rows.parquet", ["--format", "csv"], b"day,usd,"),
        ("rows.parquet", ["--format", "table"], b"day\t"),
        ("rows.csv", ["--json"], b"{\n"),
    ],
)
def test_the_name_of_a_file_says_its_format_where_nobody_else_does(
    name: str, words: list[str], begins: bytes, daemon: DaemonThread, tmp_path: Path
):
    del daemon
    assert main(["sql", "SELECT 1", *words, "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_bytes_do_not_go_to_a_terminal(daemon: DaemonThread):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cmesh", "sql", "SELECT 1", "--format", "parquet"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == UsageError.exit_status
    assert "--output FILE" in done.stderr
    assert not daemon.operations.calls


@pytest.mark.parametrize("form", [["--json"], ["--format", "jsonl"], ["--format", "parquet"], []])
def test_rows_that_are_missing_are_told_in_every_form(
    form: list[str], daemon: DaemonThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    daemon.operations.rows = ROWS.model_copy(update={"truncated": True, "cut_by": "rows"})
    path = tmp_path / "out"
    assert main(["sql", "SELECT 1", *form, "-o", str(path)]) == CUT_EXIT
    assert path.exists()
    seen = capsys.readouterr()
    assert (seen.out, seen.err.splitlines()[-1]) == (
        "",
        "hint: only the first 2 rows; raise --limit for more",
    )


def test_of_several_nodes_it_is_said_whose_rows_are_missing(
    daemon: DaemonThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    nodes = [
        SqlNodeView(node="here", node_id="n1", state="answered", rows=1),
        SqlNodeView(node="box", node_id="n2", state="answered", rows=1, truncated=True),
    ]
    daemon.operations.rows = ROWS.model_copy(update={"truncated": True, "nodes": nodes})
    words = ["sql", "SELECT 1", "--peers", "worker", "--format", "jsonl"]
    assert main(words) == CUT_EXIT
    seen = capsys.readouterr()
    assert [json.loads(line)["n"] for line in seen.out.splitlines()] == [7, None]
    assert seen.err.splitlines()[-1].startswith("hint: rows are missing, of box;")
    silent = [one.model_copy(update={"state": "offline"}) for one in nodes]
    daemon.operations.rows = ROWS.model_copy(update={"nodes": silent})
    path = tmp_path / "out"
    assert main([*words, "-o", str(path)]) == QueryRefused.exit_status
    assert not path.exists()


def test_a_person_asks_one_statement_after_another(daemon: DaemonThread):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "cmesh", "sql"])
    seen = ""

    def shows(text: str, limit_s: float) -> bool:
        nonlocal seen
        while text not in seen and select.select([terminal], [], [], limit_s)[0]:
            seen += os.read(terminal, 65_536).decode()
        return text in seen

    def until(text: str) -> str:
        nonlocal seen
        assert shows(text, SHOWN_LIMIT_S), f"no {text!r} after {seen!r}"
        found, _, seen = seen.partition(text)
        return found

    try:
        until("cmesh> ")
        os.write(terminal, b"SELECT 1\nAS one;\n")
        assert "2026-01-02" in until("cmesh> ")
        os.write(terminal, b".nosuch\n")
        assert "`.nosuch` is no command" in until("cmesh> ")
        os.write(terminal, b".schema decision\n")
        assert "did you mean `decisions`?" in until("cmesh> ")
        os.write(terminal, b".views\n")
        assert "decisions" in until("cmesh> ")
        os.write(terminal, b"SELECT dropped")
        until("dropped")
        # Readline loses an interrupt that comes while it takes in a key: a person presses again.
        for _press in range(3):
            os.write(terminal, b"\x03")
            if shows("cmesh> ", PRESSED_LIMIT_S):
                break
        until("cmesh> ")
        os.write(terminal, b".quit\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    calls = [args for _name, _context, args in daemon.operations.calls]
    sent = [one.sql for one in calls if isinstance(one, SqlArguments)]
    assert (sent[0], len(sent)) == ("SELECT 1\nAS one", 3)


def test_a_chart_is_printed_or_written_plain(
    daemon: DaemonThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    daemon.operations.rows = ROWS.model_copy(
        update={
            "columns": ["peer", "n"],
            "types": ["VARCHAR", "BIGINT"],
            "rows": [["a\x1b[31m", 7]],
        }
    )
    assert main(["sql", "SELECT 1", "--chart", "auto"]) == 0
    seen = capsys.readouterr()
    assert "█" in seen.out
    assert "\x1b" not in seen.out
    path = tmp_path / "plot"
    assert main(["sql", "SELECT 1", "--chart", "bar", "-o", str(path)]) == 0
    assert path.read_text("utf-8") == seen.out
    for words in (["--chart", "pie"], ["--chart", "bar", "--json"], ["--chart", "line"]):
        assert main(["sql", "SELECT 1", *words]) == UsageError.exit_status


def test_a_mistyped_peer_ends_a_check_at_once(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    wrong = UnknownPeer("no peer is named `bilder`", hint="did you mean `builder`?")
    daemon.operations.failures["ask_proof"] = wrong
    words = ["audit", "verify", "--against"]
    assert main([*words, "bilder"]) == UnknownPeer.exit_status
    assert "did you mean `builder`?" in capsys.readouterr().err
    # One of all trusted peers may have left the tailnet: the check goes on, to the store.
    daemon.operations.rows = SqlView(columns=["peer_id"], types=["VARCHAR"], rows=[["nGONE"]])
    assert main([*words, "all"]) not in (0, UnknownPeer.exit_status)
