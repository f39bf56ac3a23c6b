"""Marks the syntax of pieces of files, as a process that may be ended at any moment.

`python -m cmesh.interfaces.dashboard.colouring`: JSON lines in, `[file name, text]`; each is answered by
a line, the text's lines as HTML, or null where nothing knows the file. A lexer is a set of regular
expressions, and nothing inside Python can end one that goes on and on.
"""

import faulthandler
import json
import sys

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_for_filename  # pyright: ignore[reportUnknownVariableType]
from pygments.util import ClassNotFound

__all__ = ["PIECE_LIMIT_S", "coloured"]

PIECE_LIMIT_S = 2.0
"""After which the process ends by itself, also when nobody is left who would end it."""

_FORMATTER: HtmlFormatter[str] = HtmlFormatter(nowrap=True)


def coloured(name: str, text: str) -> list[str] | None:
    """Return the lines of a text as escaped HTML with classes; None where it stays plain."""
    lexer = _lexer(name)
    if lexer is None:
        return None
    wanted = text.split("\n")
    # Pygments escapes what it is given, and closes its marks at the end of each line; of empty
    # lines at the end it tells one less.
    lines = highlight(text, lexer, _FORMATTER).split("\n")[:-1]
    while len(lines) < len(wanted) and not wanted[len(lines)]:
        lines.append("")
    return lines if len(lines) == len(wanted) else None


def _lexer(name: str) -> Lexer | None:
    try:
        return get_lexer_for_filename(name, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def _serve() -> None:
    coloured("x.py", "pass")  # which loads what every file needs
    sys.stdout.write("null\n")  # it is ready: what comes now is timed
    sys.stdout.flush()
    for line in sys.stdin:
        name, text = json.loads(line)
        # A thread of C's, as an expression that is being matched lets none of Python's run.
        faulthandler.dump_traceback_later(PIECE_LIMIT_S, exit=True)
        answer = coloured(str(name), str(text))
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
