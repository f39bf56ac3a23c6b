"""The scorecard: what it makes of results, what it does about commands that fail or hang."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.scorecard import ROWS, Row, judge_command, judge_tests, main, read_results

ROOT = Path(__file__).parents[3]
LIMIT_S = 60


def results(tmp_path: Path, *cases: str) -> Path:
    """Write a JUnit file; a case is `file::name`, with `!` before it failed, with `-` skipped."""
    lines: list[str] = []
    for case in cases:
        file, _, name = case.lstrip("!-").partition("::")
        inner = {"!": "<failure/>", "-": "<skipped/>"}.get(case[0], "")
        lines.append(
            f'<testcase classname="tests.security.{file}" name="{name}">{inner}</testcase>'
        )
    lines.append('<testcase classname="tests.unit.x" name="test_1_of_another_suite"/>')
    path = tmp_path / "results.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>", "utf-8")
    return path


def row(name: str) -> Row:
    [found] = [row for row in ROWS if row.name == name]
    return found


ALL_CASES = [f"test_x::test_{number}_a" for number in range(1, 26)]


def test_only_the_security_suite_is_read(tmp_path: Path) -> None:
    found = read_results(results(tmp_path, "test_x::test_a", "!test_x::test_b", "-test_x::test_c"))
    assert found == {
        "test_x::test_a": "passed",
        "test_x::test_b": "failed",
        "test_x::test_c": "skipped",
    }


@pytest.mark.parametrize(
    ("cases", "verdict", "words"),
    [
        (ALL_CASES, "passed", "25 tests pass"),
        (["test_x::test_4_and_5_a", *ALL_CASES[:3], *ALL_CASES[5:]], "passed", "24 tests pass"),
        (ALL_CASES[:-1], "failed", "no passing test of 25"),
        ([*ALL_CASES[:-1], f"-{ALL_CASES[-1]}"], "failed", "no passing test of 25"),
        ([*ALL_CASES, "!test_x::test_7_b"], "failed", "1 of 26 tests fail: test_x::test_7_b"),
    ],
)
def test_every_abuse_case_needs_a_test_that_passes(
    tmp_path: Path, cases: list[str], verdict: str, words: str
) -> None:
    outcome = judge_tests(row("abuse cases"), read_results(results(tmp_path, *cases)))
    assert (outcome.verdict, outcome.figure) == (verdict, words)


def test_a_row_without_its_tests_is_skipped_and_never_passed(tmp_path: Path) -> None:
    found = read_results(results(tmp_path, "-test_escapes::test_nothing_gets_out[3]"))
    assert judge_tests(row("hostile directory"), found).figure == "its tests are not here"
    for one in ROWS:
        assert judge_tests(one, found).verdict in {"skipped", "failed"}


def test_the_short_form_ends_in_its_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results(tmp_path, *ALL_CASES, "test_policy_table::test_cells", "!test_fuzz::test_x")
    wanted = ["--only", "abuse cases", "policy table", "sandbox start"]
    assert main(["--quick", "--json", "--results", str(path), *wanted]) == 0
    *rows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last == {"passed": 2, "failed": 0, "skipped": 1}
    assert {one["name"]: one["verdict"] for one in rows} == dict(
        zip(wanted[1:], ["passed", "passed", "skipped"], strict=True)
    )
    assert all(one["target"] and one["figure"] for one in rows)


def test_a_missed_target_is_an_exit_status(tmp_path: Path) -> None:
    path = results(tmp_path, "!test_policy_table::test_cells")
    assert main(["--quick", "--results", str(path), "--only", "policy table"]) == 1


def test_in_the_long_form_a_skipped_row_is_no_target_met(tmp_path: Path) -> None:
    path = results(tmp_path, "test_policy_table::test_cells")
    assert main(["--results", str(path), "--only", "policy table"]) == 0
    assert main(["--results", str(path), "--only", "policy table", "hostile directory"]) == 1


def command(code: str, **more: object) -> Row:
    fields: dict[str, object] = {"argv": (sys.executable, "-c", code), **more}
    return Row(name="x", target="x", **fields)  # pyright: ignore[reportArgumentType]  # by name


def test_a_command_is_judged_by_what_its_last_line_says() -> None:
    tampering = row("tampering").read
    good = "print('noise'); print('{\"edits\": 1000, \"missed\": []}')"
    assert judge_command(command(good, read=tampering)).figure == "1,000 of 1,000 found"
    for bad in ('print(\'{"edits": 1000, "missed": ["x"]}\')', "print('no figure')", "", "1/0"):
        assert judge_command(command(bad, read=tampering)).verdict == "failed"
    assert judge_command(command("raise SystemExit(3)")).verdict == "failed"


def test_fewer_than_promised_are_not_enough() -> None:
    read = row("malformed frames").read
    assert read is not None
    found = {"malformed": 1_000_000, "crashes": 0, "growth_kib": 20 * 1024 - 1}
    assert read({"targets": {"frames": found}})[0]
    for change in ({"malformed": 999_999}, {"crashes": 1}, {"growth_kib": 20 * 1024}):
        assert not read({"targets": {"frames": {**found, **change}}})[0]
    score = row("mutation score of policy").read
    assert score is not None
    assert score({"ran": 10, "mutants": 10, "score": 90.0})[0]
    assert not score({"ran": 9, "mutants": 10, "score": 99.0})[0]
    assert not score({"ran": 10, "mutants": 10, "score": 89.9})[0]


WAITS = "import signal; signal.pause()"
HANGS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}])"


def test_a_command_that_hangs_is_ended_with_what_it_started() -> None:
    outcome = judge_command(command(HANGS, limit_s=1.0))
    assert (outcome.verdict, outcome.figure) == ("failed", "not done within 1 s")


def test_an_interrupt_ends_it_with_the_counts_so_far(tmp_path: Path) -> None:
    script = f"""
import sys
from scripts import scorecard
scorecard.ROWS = (scorecard.Row(name="x", target="x", argv=(sys.executable, "-c", {HANGS!r})),)
print("begun", flush=True)
raise SystemExit(scorecard.main([]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        # The command has started one of its own: so the scorecard is waiting for it by now.
        began, one = time.monotonic(), [process.pid]
        while len(one) < 3 and time.monotonic() - began < LIMIT_S:
            one = [process.pid]
            for pid in one:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
                one += map(int, children.split())
        watched = [os.pidfd_open(pid) for pid in one]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=LIMIT_S)
    assert json.loads(out.splitlines()[-1]) == {"passed": 0, "failed": 0, "skipped": 0}
    assert process.returncode == 130
    # Ended, not reaped: who adopts an orphan may take its time.
    ended = [select.select([handle], [], [], LIMIT_S)[0] for handle in watched]
    for handle in watched:
        os.close(handle)
    assert len(watched) == 3
    assert all(ended)


@pytest.mark.parametrize(("p95", "met"), [(25.0, True), (25.1, False)])
def test_the_sandbox_is_judged_beside_the_interpreter_that_ran_in_turn(
    p95: float, met: bool
) -> None:
    read = row("sandbox start").read
    assert read is not None
    found = {
        "rows": [
            {"name": "bare interpreter, `python -I -S -c pass`", "figures": {"p95": 1.0}},
            {"name": "`true` in the sandbox of a query, tier 3", "figures": {"p95": p95}},
            {"name": "in turn with it, `python -I -S -c pass`", "figures": {"p95": 8.0}},
        ]
    }
    assert read(found) == (met, f"p95 {p95:.1f} ms, bare interpreter 8.0 ms")
