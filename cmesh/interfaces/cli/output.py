"""What the commands print: data on stdout, all else on stderr, remote text scrubbed.

On a terminal tables are drawn; in a pipe they are tab-separated lines. Colour
is an ornament only (`NO_COLOR` is rich's to obey). Rich is loaded only where a
terminal will show it: it costs a fifth of a command's start.
"""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from cmesh.errors import CmeshError
from cmesh.interfaces.cli.fitting import COLUMN_GAP, fitted, layout, wide, wrapped
from cmesh.text import one_line, reveal, scrub

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "ask",
    "data",
    "duration",
    "has_colour",
    "hint",
    "is_terminal",
    "json_text",
    "lines",
    "moment",
    "paged",
    "pairs",
    "print_error",
    "print_json",
    "say",
    "short_moment",
    "somebody",
    "stderr",
    "table",
]

_CUT_COLUMNS = frozenset({"DIRECTORY", "MACHINE", "PATHS", "PROMPT", "RUNNERS", "WHY NOT"})
"""What may be cut to fit a terminal; ids, names and fingerprints may not."""

_MESSAGE_CHARACTERS = 4_000
# C1 controls, line separators and marks that turn the reading direction.
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_MINUTE_S = 60
_MINUTE_END = len("2026-01-31 12:00")
_HOUR_S = 3600
_DAY_S = 86_400


def data(text: str) -> None:
    """Print text that the command was asked for."""
    clean = scrub(text)
    sys.stdout.write(clean if clean.endswith("\n") or not clean else clean + "\n")
    # At once: a login URL in a pipe is of no use after the wait for the login.
    sys.stdout.flush()


def print_json(value: BaseModel | Mapping[str, object] | Sequence[object]) -> None:
    """Print the one JSON document of `--json`."""
    sys.stdout.write(json_text(value) + "\n")
    # At once, as above: `cmesh dashboard` prints its link and then serves.
    sys.stdout.flush()


def json_text(
    value: BaseModel | Mapping[str, object] | Sequence[object], *, indent: int | None = 2
) -> str:
    """Return JSON without a character that steers a terminal."""
    if isinstance(value, BaseModel):
        text = value.model_dump_json(indent=indent)
    else:
        text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    # In JSON such characters stand inside strings only, where an escape means the same.
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def paged(text: str) -> None:
    """Print a text that somebody is to read and judge: what cannot be seen is written out.

    A pager shows it where a person is at a terminal and it is longer than that.
    """
    shown = reveal(text)
    lines = shutil.get_terminal_size().lines
    if sys.stdout.isatty() and sys.stdin.isatty() and shown.count("\n") >= lines:
        import pydoc

        sys.stdout.flush()
        pydoc.pager(shown)
        return
    sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Tell the person something beside the data."""
    sys.stdout.flush()  # in the order it was said, also where both go to one file
    sys.stderr.write(scrub(text) + "\n")


def hint(text: str) -> None:
    """Tell the person the next step."""
    _labelled("hint", "cyan", text)


def somebody() -> bool:
    """Return whether a person is at the terminal, to be shown something and asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def forget_typed() -> None:
    """Forget what was typed at the terminal up to now: an answer comes after its question.

    Lines that a text had somebody paste, a command and its yes, would be one otherwise.
    """
    import termios

    with contextlib.suppress(termios.error, ValueError):  # no terminal: nobody types ahead
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def ask(question: str) -> str:
    """Ask the person at the terminal; return the line that was typed.

    Raises:
        KeyboardInterrupt: the terminal was closed.
    """
    # Not typer.prompt: it writes to stdout, which belongs to the data.
    sys.stdout.flush()
    sys.stderr.write(scrub(question))
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise KeyboardInterrupt
    return line.strip()


def print_error(error: CmeshError, *, as_json: bool) -> None:
    """Print an error in its one form: JSON on stdout, or two lines on stderr."""
    message = one_line(error.message, _MESSAGE_CHARACTERS)
    if as_json:
        body: dict[str, object] = {"code": error.code, "message": message, "hint": error.hint}
        if error.retry_after_s is not None:
            body["retry_after_s"] = error.retry_after_s
        print_json({"error": body})
        return
    _labelled("error", "bold red", message)
    if error.hint:
        hint(error.hint)
    if error.retry_after_s is not None:
        hint(f"try again in {duration(error.retry_after_s)}")


def stderr() -> "Console":
    """Return a console on stderr that interprets nothing in what it prints."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def is_terminal() -> bool:
    """Return whether progress can be drawn."""
    return sys.stderr.isatty() and not stderr().is_dumb_terminal


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, may_lack: Sequence[str] = ()
) -> None:
    """Print rows of possibly remote text: as a table, or where that has no room as blocks.

    A terminal that is too narrow lacks columns of `may_lack` first, the last of them before all.
    A pipe has them all.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(lines(columns, rows))
        return
    columns = [one_line(column, 200) for column in columns]
    cells = [[one_line(cell, 200) for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns
    kept = layout(columns, cells, width, may_lack=may_lack, cut=_CUT_COLUMNS)
    if kept is None:
        _blocks(columns, [[one_line(cell, _MESSAGE_CHARACTERS) for cell in row] for row in rows])
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    for number, row in enumerate([columns, *cells]):
        parts = [fitted(row[at], size) for at, size in kept.items()]
        filled = [
            part + " " * (size - wide(part))
            for part, size in zip(parts, kept.values(), strict=True)
        ]
        line = (" " * COLUMN_GAP).join(filled).rstrip()
        if number == 0:
            console.print(Text(line, style="bold"), soft_wrap=True)
        else:
            sys.stdout.write(line + "\n")
    lacking = [column for at, column in enumerate(columns) if at not in kept]
    if lacking := [one for one in lacking if any(row[columns.index(one)] for row in cells)]:
        hint(f"no room here for {', '.join(lacking)}; `--json` has all")


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for programs: a line a row, tabs between the cells."""
    return "".join(
        "\t".join(one_line(cell, 10_000) for cell in row) + "\n" for row in [columns, *rows]
    )


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one a line; empty values are left out.

    A terminal gets long values in lines of its width, broken between words.
    """
    shown = [(name, value) for name, value in rows if value]
    width = max((wide(name) for name, _value in shown), default=0)
    room = shutil.get_terminal_size().columns - width - COLUMN_GAP if sys.stdout.isatty() else 0
    for name, value in shown:
        first, *more = wrapped(scrub(value), room)
        sys.stdout.write(f"{name}{' ' * (width - wide(name))}  {first}\n")
        for line in more:
            sys.stdout.write(f"{'':<{width}}  {line}\n")


def has_colour() -> bool:
    """Return whether standard output is a terminal that shows colours, and `NO_COLOR` is not set."""
    from rich.console import Console

    console = Console()
    return console.color_system is not None and not console.no_color


def _blocks(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print one block a row: an id that was cut or folded could not be copied."""
    for number, row in enumerate(cells):
        if number:
            sys.stdout.write("\n")
        pairs([(column.lower(), cell) for column, cell in zip(columns, row, strict=True)])


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m {whole % _MINUTE_S:02d}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h {whole % _HOUR_S // _MINUTE_S:02d}m"
    return f"{whole // _DAY_S}d {whole % _DAY_S // _HOUR_S}h"


def moment(value: datetime | None) -> str:
    """Return a time in the local zone; empty for none."""
    if value is None:
        return ""
    try:
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except OverflowError:  # a peer may name the last day of time
        return value.isoformat()


def short_moment(value: datetime | None) -> str:
    """Return a time for a table: to the minute on a terminal, elsewhere as `moment`."""
    text = moment(value)
    return text[:_MINUTE_END] if sys.stdout.isatty() else text


def _labelled(label: str, style: str, text: str) -> None:
    if not sys.stderr.isatty():
        say(f"{label}: {text}")
        return
    from rich.text import Text

    stderr().print(Text.assemble((label, style), ": ", scrub(text)), soft_wrap=True)
