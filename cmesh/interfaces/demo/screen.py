"""What the demo prints: numbered steps, the facts as they happen, what was checked.

Readable at 80 columns and without colour; remote text is scrubbed. Decides nothing, and
prints nothing at all when quiet.
"""

import sys
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cmesh.text import scrub

__all__ = ["Screen"]

_MARGIN = 4
_LABEL = 15
_WIDEST = 92


class Screen:
    """One run's output, on stdout; the spinner only where a terminal can draw it."""

    def __init__(self, *, quiet: bool, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console or Console(markup=False, highlight=False, emoji=False)
        self._status: Status | None = None
        self._width = min(self._console.width, _WIDEST)

    def head(self, title: str, *lines: str) -> None:
        """Print what this is, before anything is done."""
        self._print(Text(title, "bold"))
        for line in lines:
            self._wrapped(line, 0)

    def step(self, number: int, title: str) -> None:
        """Begin a step; what follows belongs to it."""
        self._print(Text())
        self._print(Text(f"{number:>2}  {title}", "bold"))
        self._wait("")

    def waiting(self, what: str) -> None:
        """Say what is being waited for, where that can be taken away again."""
        self._wait(what)

    def fact(self, label: str, text: str) -> None:
        """Print something that has just happened."""
        self._row(label, text, "cyan")

    def block(self, text: str) -> None:
        """Print text of the other machine, set off from ours and never wrapped by us."""
        room = self._width - _MARGIN - 2
        for line in scrub(text).splitlines():
            for part in textwrap.wrap(line, room, drop_whitespace=False) or [""]:
                self._print(Text.assemble(" " * _MARGIN, ("|", "dim"), f" {part}".rstrip()))

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table of a query's answer."""
        table = [list(columns), *(list(row) for row in rows)]
        widths = [max(len(row[n]) for row in table) for n in range(len(columns))]
        for index, row in enumerate(table):
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            line = scrub("  ".join(cells).rstrip())
            self._print(Text(" " * _MARGIN + line, "" if index else "dim"))

    def checked(self, what: str, seconds: float) -> None:
        """End a step with what was asserted, and how long the step took."""
        self._still()
        self._row(f"checked {seconds:.1f} s", what, "green")

    def summary(self, title: str, lines: Sequence[str]) -> None:
        """Print the end: what was shown, one line each."""
        self._still()
        self._print(Text())
        self._print(Text(title, "bold green"))
        for line in lines:
            self._wrapped(f"- {line}", 2, hanging=2)

    def commands(self, title: str, commands: Sequence[tuple[str, str]]) -> None:
        """Print commands to copy, each in a line of its own, however long."""
        self._print(Text())
        self._print(Text(title, "bold"))
        for what, command in commands:
            if what:
                self._wrapped(what, 2)
            self._print(Text(f"    {command}"))

    def note(self, text: str) -> None:
        """Print something the reader has to know."""
        self._wrapped(text, 0)

    def failed(self, message: str, hint: str, logs: Sequence[tuple[str, str]]) -> None:
        """Say on stderr what did not happen; `logs` are names and last lines."""
        self._still()
        lines = [f"failed: {message}"]
        if hint:
            lines.append(f"hint: {hint}")
        for name, tail in logs:
            if tail and not self._quiet:
                lines += [f"last lines of {name}'s log:", textwrap.indent(tail, "  ")]
        sys.stderr.write("\n" + scrub("\n".join(lines)) + "\n")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._still()

    def _row(self, label: str, text: str, style: str) -> None:
        indent = " " * (_MARGIN + _LABEL)
        room = max(20, self._width - len(indent))
        lines = textwrap.wrap(scrub(text), room, break_on_hyphens=False) or [""]
        self._print(Text.assemble(" " * _MARGIN, (f"{label:<{_LABEL}}", style), lines[0]))
        for line in lines[1:]:
            self._print(Text(indent + line))

    def _wrapped(self, text: str, indent: int, hanging: int = 0) -> None:
        lines = textwrap.wrap(
            scrub(text),
            self._width,
            initial_indent=" " * indent,
            subsequent_indent=" " * (indent + hanging),
            break_on_hyphens=False,
            break_long_words=False,
        )
        for line in lines:
            self._print(Text(line))

    def _wait(self, what: str) -> None:
        if self._quiet or not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        if self._status is None:
            self._status = self._console.status(what, spinner="line")
            self._status.start()
        self._status.update(Text(what, "dim"))

    def _still(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _print(self, text: Text) -> None:
        if not self._quiet:
            self._console.print(text, soft_wrap=True)
