"""Statements typed one after another, at a terminal or from a pipe, and what is answered to each.

Nothing that is typed is kept: the history is the process's own.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from cmesh.daemon.answers import SqlView
from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.complete import statement_words
from cmesh.interfaces.cli.standard_output import OutputFailed
from cmesh.nearest import did_you_mean
from cmesh.text import one_line

__all__ = ["SCHEMA_ROWS", "converse"]

SCHEMA_ROWS = 10_000
"""More columns than all views have."""

_MORE = "...> "
_LEAVE = frozenset({"exit", "quit", "\\q", ".exit", ".quit"})
_HELP = """\
SELECT ... ;    ask; a statement may have several lines, and ends with a semicolon
.views          the views, with their columns
.schema VIEW    the columns of one view, with their types and meaning
.help           this
.quit           leave; so do Ctrl-D, `exit` and `quit`. Ctrl-C drops what was begun"""
_DOTTED = ([".help"], [".views"], [".schema"], [".quit"], [".exit"])
_DELIMITERS = " \t\n,()<>=+-*/;."

Ask = Callable[[str, int | None], SqlView]
"""Answers one SELECT, with so many rows at most; None = as many as the command was told."""


def converse(ask: Ask, show: Callable[[SqlView], None], *, prompt: str, schema: str) -> int:
    """Answer what is typed until the input ends or somebody leaves; return how much it was. Blocks.

    Args:
        ask: answers a statement.
        show: prints an answer.
        prompt: what a line begins with at a terminal.
        schema: a SELECT of view, column, type and meaning of every column.
    """
    if output.somebody():
        output.hint("a SELECT ends with `;`; `.help` says what else there is")
    count = 0
    for count, text in enumerate(_typed(prompt), 1):  # noqa: B007 - it is what is returned
        try:
            if text.startswith("."):
                _command(text.split(), ask, schema)
            else:
                show(ask(text, None))
        except OutputFailed:  # no answer after it would be seen
            raise
        except CmeshError as error:
            output.print_error(error, as_json=False)
        except KeyboardInterrupt:
            output.say("\nended")
    return count


def _command(words: list[str], ask: Ask, schema: str) -> None:
    if words == [".help"]:
        output.say(_HELP)
        return
    if words[0] not in (".views", ".schema") or len(words) != (1 if words[0] == ".views" else 2):
        raise UsageError(f"`{one_line(' '.join(words), 60)}` is no command", hint="see `.help`")
    columns: dict[str, list[list[str]]] = {}
    for view, *rest in ask(schema, SCHEMA_ROWS).rows:
        columns.setdefault(str(view), []).append([str(one) for one in rest])
    if words[0] == ".views":
        rows = [[view, ", ".join(one[0] for one in found)] for view, found in columns.items()]
        output.table(("view", "columns"), rows)
        return
    if words[1] not in columns:
        meant = did_you_mean(words[1], list(columns)) or "`.views` lists them"
        raise UsageError(f"there is no view `{one_line(words[1], 60)}`", hint=meant)
    output.table(("column", "type", "means"), columns[words[1]])


def _typed(prompt: str) -> Iterator[str]:
    """Yield each statement without its semicolon, and each line that is a command with a dot."""
    lines: list[str] = []
    read = _edited(lines) if output.somebody() and sys.stdout.isatty() else _plain
    while True:
        try:
            line = read(f"{_MORE:>{len(prompt)}}" if lines else prompt)
        except KeyboardInterrupt:
            output.say("")
            lines.clear()
            continue
        word = "" if line is None else line.strip()
        if lines and _is_asked_within(word):
            continue
        if line is not None and not lines and (word.startswith(".") or word in _LEAVE):
            if word in _LEAVE:
                return
            yield word
            continue
        if word:
            lines.append(word)
        if line is not None and not word.endswith(";"):
            continue
        text = "\n".join(lines).rstrip("; \t\n")
        lines.clear()
        if text:
            yield text
        if line is None:
            return


def _is_asked_within(word: str) -> bool:
    """Answer a command with a dot that is typed before a statement is over; say whether it is one.

    No SQL has a line that is such a word.
    """
    if word.split()[:1] not in _DOTTED:
        return False
    output.say("the statement goes on; end it with `;`, or drop it with Ctrl-C")
    if word == ".help":
        output.say(_HELP)
    return True


def _plain(prompt: str) -> str | None:
    """Return a line of standard input; None where it ends. A prompt is for a person alone."""
    if output.somebody():
        sys.stderr.write(prompt)
        sys.stderr.flush()
    return sys.stdin.readline() or None


def _edited(lines: list[str]) -> Callable[[str], str | None]:
    """Return what reads a line with editing, history and completion, as this terminal has them.

    `lines` are those of the statement before the one that is typed.
    """
    readline: Any = importlib.import_module("readline")

    def complete(_word: str, state: int) -> str | None:
        begun = readline.get_line_buffer()[: readline.get_endidx()]
        found = statement_words(" ".join([*lines, begun]))
        return found[state] if state < len(found) else None

    readline.set_completer_delims(_DELIMITERS)
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")

    def read(prompt: str) -> str | None:
        try:
            return input(prompt)
        except EOFError:
            output.say("")
            return None

    return read
