"""The named reports: what they find in a month of rows, and how the command tells it."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.daemon.forget_calls import ForgetArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli.app import main
from cmesh.interfaces.cli.exits import CUT_EXIT
from cmesh.interfaces.reporting import before, moment_of
from cmesh.interfaces.reports import REPORTS, Answer, Rule, auto_run, unused
from cmesh.store.store import Store
from tests.contract.audit_month import MonthClock, live_a_month
from tests.fakes.daemon import DaemonThread

ALWAYS = ("1970-01-01T00:00:00+00:00", "2199-01-01T00:00:00+00:00")
LATER = ("2198-01-01T00:00:00+00:00", "2199-01-01T00:00:00+00:00")
RULES = (
    Rule(direction="inbound", effect="allow", name="my machines", line=3),
    Rule(direction="inbound", effect="deny", name="nobody else", line=9),
    Rule(direction="outbound", effect="allow", name="after a yes"),
)
CONFIG = """
[[inbound.allow]]
name = "never asked for"
peers = ["node:nABC"]
operations = ["task"]
profiles = ["query"]
runners = ["claude"]
paths = ["/srv"]
"""
Found = Mapping[tuple[str, str], Answer]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What every report finds: always, always of one peer, and in a time without any row."""
    clock = MonthClock()
    place = tmp_path_factory.mktemp("reports") / "store"
    store = await Store.open(place, clock=clock, node="nSELF")
    answers: dict[tuple[str, str], Answer] = {}
    try:
        await live_a_month(store, clock)
        for name, report in REPORTS.items():
            asked = {"always": (*ALWAYS, ""), "GPU": (*ALWAYS, "GPU"), "never": (*LATER, "")}
            for what, parameters in asked.items():
                rows = await store.sql(report.sql, parameters, 1_000)
                answer = Answer(columns=rows.columns, types=rows.types, rows=rows.rows)
                answers[name, what] = report.shape(answer, RULES) if report.shape else answer
    finally:
        await store.close()
    return answers


def column(answer: Answer, name: str) -> list[object]:
    return [row[answer.columns.index(name)] for row in answer.rows]


@pytest.mark.anyio
@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_finds_something_and_only_in_its_time_and_of_its_peer(
    found: Found, name: str
) -> None:
    assert found[name, "always"].rows
    if "peer" in found[name, "always"].columns:
        assert not found[name, "never"].rows
        assert set(column(found[name, "GPU"], "peer")) <= {"gpu"}
    assert len({*found[name, "always"].columns}) == len(found[name, "always"].columns)


@pytest.mark.anyio
async def test_reports_say_what_happened(found: Found) -> None:
    rows = {name: found[name, "always"].rows for name in REPORTS}
    assert {(row[1], row[2]) for row in rows["denials"]} == {
        ("here", "eve"),
        ("here, before it was sent", "gpu"),
        ("there", "gpu"),
    }
    assert column(found["auto-run", "always"], "path") == [".github/workflows/ci.yml"]
    worst = rows["failing"][0]
    assert worst[:8] == ["out", "gpu", "codex", 2, 0, 1, 1, 0]
    assert rows["slowest"][0][0] == 900.0
    assert {*column(found["no-receipt", "always"], "receipt")} == {"none", "pending"}
    assert column(found["approvals", "always"], "answer") == [
        "waits",
        "denied",
        "approved",
        "waits",
    ]
    costs = found["costs", "always"]
    told = sum(float(str(usd)) for usd in column(costs, "usd") if usd is not None)
    assert told == pytest.approx(4.02)
    assert sum(int(str(number)) for number in column(costs, "not_told")) == 4


@pytest.mark.anyio
async def test_a_rule_is_unused_by_its_direction_its_time_and_its_peer(found: Found) -> None:
    assert column(found["unused-rules", "always"], "rule") == ["nobody else", "after a yes"]
    later = found["unused-rules", "never"].rows
    assert [row[2] for row in later] == [rule.name for rule in RULES]
    assert [row[4] is None for row in later] == [False, True, True]
    assert "my machines" in column(found["unused-rules", "GPU"], "rule")  # `gpu` asked for nothing


def test_no_rules_are_no_rows() -> None:
    nothing = Answer(columns=("direction", "rule", "times", "latest"), types=(), rows=[])
    assert unused(nothing, ()).rows == []


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (".git/hooks/pre-commit", True),
        ("a/CLAUDE.md", True),
        ("/home/me/.bashrc", True),
        ("a.py", False),
        ("docs/profile", False),
    ],
)
def test_a_file_that_no_worker_judged_is_judged_by_its_name(path: str, *, kept: bool) -> None:
    rows: list[list[object]] = [[path, None, "t"]]
    answer = Answer(columns=("path", "judged_by", "task_id"), types=("VARCHAR",) * 3, rows=rows)
    assert auto_run(answer, ()).rows == ([[path, "its name", "t"]] if kept else [])


NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("90m", NOW - timedelta(minutes=90)),
        ("all", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2026-11-01T06:00+02:00", datetime(2026, 11, 1, 4, 0, tzinfo=UTC)),
        ("2026-11-01T06:00:00Z", datetime(2026, 11, 1, 6, 0, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1).astimezone()),
    ],
)
def test_a_time_is_told_in_the_ways_people_tell_it(text: str, wanted: datetime) -> None:
    assert moment_of(text, NOW) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "7", "-7d", "999999d", "2026-13-01", "0000-00-00", "7d; DROP", "\x1b[0m"],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        moment_of(text, datetime(1971, 1, 1, tzinfo=timezone(timedelta(hours=-12))))


def test_a_report_begins_thirty_days_before_its_end_and_never_before_all() -> None:
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    assert before(NOW) == NOW - timedelta(days=30)
    assert before(begin + timedelta(days=3)) == before(begin) == begin


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonThread]:
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        for name in ("STATE", "CONFIG"):
            monkeypatch.setenv(f"CMESH_{name}_DIR", f"{directory}/{name.lower()}")
        with DaemonThread() as running:
            yield running


def answered(rows: Sequence[Sequence[Any]]) -> SqlView:
    types = ["TIMESTAMP WITH TIME ZONE", "VARCHAR", "DOUBLE"]
    return SqlView(columns=["ts", "reason", "usd"], types=types, rows=[[*row] for row in rows])


def test_a_report_goes_out_as_a_table_as_json_and_as_csv(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    daemon.operations.rows = answered([["2026-11-26T07:46:08.915420+00:00", "=no\x1b[31m!", 0.25]])
    assert main(["audit", "report", "denials", "--since", "7d", "--peer", "gpu"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["ts", "reason", "usd"]
    assert row.split("\t") == ["2026-11-26 07:46:08 +0000", "=no[31m!", "0.25"]
    name, _context, arguments = daemon.operations.calls[-1]
    sent = arguments.model_dump()["parameters"]
    since, until = (datetime.fromisoformat(text) for text in sent[:2])
    assert (name, until - since, sent[2]) == ("sql", timedelta(days=7), "gpu")
    assert main(["audit", "report", "denials", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"report", "since", "until", "peer", "columns", "rows", "empty"} <= set(document)
    assert main(["audit", "report", "denials", "--format", "csv"]) == 0
    assert "'=no" in capsys.readouterr().out


def test_without_a_beginning_a_report_is_of_the_days_before_its_end(daemon: DaemonThread) -> None:
    assert main(["audit", "report", "denials", "--until", "2020-01-31"]) == 0
    [sent] = [args for _name, _context, args in daemon.operations.calls]
    assert isinstance(sent, SqlArguments)
    assert isinstance(sent.parameters, list)
    since, until = (datetime.fromisoformat(str(text)) for text in sent.parameters[:2])
    assert until - since == timedelta(days=30)


@pytest.mark.parametrize(("text", "ago"), [("7d", timedelta(days=7)), ("12h", timedelta(hours=12))])
def test_what_is_forgotten_is_told_as_a_report_is(
    text: str, ago: timedelta, daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    assert main(["audit", "forget", "--before", text, "--dry-run"]) == 0
    [sent] = [args for _name, _context, args in daemon.operations.calls]
    assert isinstance(sent, ForgetArguments)
    assert sent.ended_before is not None
    assert timedelta() <= sent.ended_before - (now - ago) < timedelta(minutes=5)
    assert main(["audit", "forget", "--before", "all"]) == UsageError.exit_status
    assert main(["audit", "forget", "--before", "soon"]) == UsageError.exit_status
    capsys.readouterr()
    assert main(["audit", "forget"]) == UsageError.exit_status
    said = capsys.readouterr().err
    assert "--peer" in said
    assert "--before" in said


def test_an_empty_report_says_what_that_means(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.operations.rows = answered([])
    assert main(["audit", "report", "denials", "--peer", "gpu", "--since", "all"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "denials of `gpu`: nothing was refused\n")
    assert main(["audit", "report", "denials", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["empty"]) == ([], "nothing was refused")


def test_unused_rules_come_from_the_file_with_their_lines(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(os.environ["CMESH_CONFIG_DIR"]) / "config.toml"
    file.parent.mkdir(mode=0o700, parents=True)
    file.write_text(CONFIG, "utf-8")
    file.chmod(0o600)
    used: list[list[object]] = [["inbound", "another", 3, "2026-11-26T07:46:08+00:00"]]
    columns = ["direction", "rule", "times", "latest"]
    daemon.operations.rows = SqlView(columns=columns, types=["VARCHAR"] * 4, rows=used)
    assert main(["audit", "report", "unused-rules", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == [["inbound", "allow", "never asked for", 2, None]]
    file.write_text(CONFIG + "nonsense = [", "utf-8")
    assert main(["audit", "report", "unused-rules"]) != 0
    assert "config.toml" in capsys.readouterr().err


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["denial"], "did you mean `denials`?"),
        (["nosuch"], "the reports: activity,"),
        (["denials", "--since", "soon"], "is no time"),
        (["denials", "--since", "1d", "--until", "2d"], "not before"),
        (["denials", "--format", "xml"], "is no format"),
        (["denials", "--limit", "0"], "at least 1"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "report", *words]) == UsageError.exit_status
    assert said in capsys.readouterr().err


def test_the_list_needs_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "report", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(REPORTS)
    assert main(["audit", "report", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["reports"]) == set(REPORTS)


def test_a_report_that_a_limit_cut_says_so_and_has_a_status_of_its_own(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.operations.rows = SqlView(
        columns=["day", "tasks"],
        types=["VARCHAR", "BIGINT"],
        rows=[["mon", 1], ["tue", 3]],
        truncated=True,
        cut_by="rows",
    )
    for more in ([], ["--json"], ["--chart", "bar"], ["--format", "csv"]):
        assert main(["audit", "report", "costs", *more]) == CUT_EXIT
        seen = capsys.readouterr()
        assert "only the first 2 rows" in seen.err
        assert ("█" in seen.out) == (more == ["--chart", "bar"])
    assert main(["audit", "report", "costs", "--json", "--chart", "bar"]) == UsageError.exit_status
