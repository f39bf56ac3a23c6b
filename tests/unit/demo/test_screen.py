"""What is printed: 80 columns, no colour in a pipe, remote text harmless, nothing when quiet."""

import io
import json

import pytest
from rich.console import Console

from cmesh.errors import CmeshError
from cmesh.interfaces.demo.report import Report, StepReport
from cmesh.interfaces.demo.screen import Screen

LONG = "a word and another " * 12


def printed(*, quiet: bool = False) -> str:
    stream = io.StringIO()
    screen = Screen(quiet=quiet, console=Console(file=stream, width=80, markup=False))
    screen.head("title", LONG)
    screen.step(1, "a step")
    screen.waiting("for something")
    screen.fact("label", LONG)
    screen.block("evil \x1b[31m[bold]text[/bold]\n\nend" + "x" * 200)
    screen.rows(["a", "b"], [["1", "two"]])
    screen.checked(LONG, 1.25)
    screen.summary("done", [LONG])
    screen.close()
    return stream.getvalue()


def test_every_line_fits_80_columns_and_has_no_control_characters() -> None:
    lines = printed().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() and line == line.rstrip() for line in lines)


def test_text_of_the_other_machine_is_not_markup() -> None:
    assert "| evil [31m[bold]text[/bold]" in printed()


def test_a_step_ends_with_what_was_checked_and_how_long_it_took() -> None:
    assert "checked 1.2 s  a word" in printed()


def test_a_quiet_screen_prints_nothing() -> None:
    assert printed(quiet=True) == ""


def test_a_command_to_copy_stays_in_one_line() -> None:
    stream = io.StringIO()
    screen = Screen(quiet=False, console=Console(file=stream, width=80))
    screen.commands("go on", [("so:", "cmesh " + "x" * 200)])
    assert f"    cmesh {'x' * 200}\n" in stream.getvalue()


def test_a_failure_goes_to_stderr_with_the_logs(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=False)
    screen.failed("it did not happen", "try again", [("laptop", "last\x1b line")])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "failed: it did not happen\nhint: try again\n" in shown.err
    assert "last line" in shown.err


def test_a_run_is_one_line_of_json() -> None:
    step = StepReport(title="t", facts=[("a", "b"), ("a", "c")], checked="c", seconds=0.5)
    report = Report(steps=[step], error=CmeshError("broken\nhere", hint="h"))
    line = report.line()
    assert "\n" not in line
    body = json.loads(line)
    facts = [{"label": "a", "text": "b"}, {"label": "a", "text": "c"}]
    assert body["steps"] == [{"title": "t", "seconds": 0.5, "facts": facts, "checked": "c"}]
    assert body["error"] == {"code": "internal", "message": "broken\nhere", "hint": "h"}
    assert body["ok"] is False
