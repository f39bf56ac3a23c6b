"""What reaches the screen: remote text without controls, tables that pipes can read."""

import json
from datetime import UTC, datetime

import pytest

from cmesh.errors import DiskFull, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import accept_argv, seconds

EVIL = "a\x1b[31mb\x9bc\u202ed\tx\ny"


def test_nothing_printed_can_drive_the_terminal(capsys: pytest.CaptureFixture[str]):
    output.data(EVIL)
    output.say(EVIL)
    output.hint(EVIL)
    output.table(["A"], [[EVIL]])
    output.pairs([("name", EVIL)])
    output.print_error(DiskFull(EVIL, hint=EVIL), as_json=False)
    seen = capsys.readouterr()
    for text in (seen.out, seen.err):
        assert not set(text) & set("\x1b\x9b\u202e")


def test_a_text_that_is_judged_shows_what_it_hides(capsys: pytest.CaptureFixture[str]):
    output.paged("+if a\u202e b\x1b[8m:\r\n+\tx\r+y\n")
    assert capsys.readouterr().out == "+if a<U+202E> b<U+001B>[8m:\n+\tx<U+000D>+y\n"


def test_json_escapes_instead_of_dropping(capsys: pytest.CaptureFixture[str]):
    output.print_json({"text": EVIL})
    seen = capsys.readouterr()
    assert json.loads(seen.out)["text"] == EVIL
    assert "\x1b" not in seen.out


def test_a_row_in_a_pipe_is_one_line_with_tabs_between_cells(capsys: pytest.CaptureFixture[str]):
    output.table(["A", "B"], [["x\ty\nz", "w"]])
    assert capsys.readouterr().out == "A\tB\nx y z\tw\n"


@pytest.mark.parametrize("text", ["no newline", "with one\n"])
def test_data_ends_with_exactly_one_newline(text: str, capsys: pytest.CaptureFixture[str]):
    output.data(text)
    assert capsys.readouterr().out == text.rstrip("\n") + "\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.4, "400ms"), (0, "0s"), (59, "59s"), (61, "1m 01s"), (3_660, "1h 01m"), (90_000, "1d 1h")],
)
def test_durations_are_short(value: float, shown: str):
    assert output.duration(value) == shown


def test_times_are_shown_with_their_zone():
    assert output.moment(datetime(2026, 1, 2, tzinfo=UTC))[-5] in "+-"
    assert output.moment(None) == ""


@pytest.mark.parametrize(("text", "wanted"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7_200)])
def test_durations_are_read(text: str, wanted: int):
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "-1", "1.5h", "m", "15 m", "1w", "9999999"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(UsageError):
        seconds(text)


def test_an_acceptance_command_is_split_but_never_expanded():
    assert accept_argv("make test 'a $B' *") == ["make", "test", "a $B", "*"]
