"""A patch as a page shows it: files, hunks, numbered lines, the syntax of each file in colours.

Pure. Colours are classes (Pygments); what is not coloured is escaped all the same. A patch is
another machine's text: what cannot be seen in it is written out, and what is too long is cut.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_for_filename  # pyright: ignore[reportUnknownVariableType]
from pygments.util import ClassNotFound

from cmesh.clock import SystemClock
from cmesh.text import cut, reveal

__all__ = ["DiffFile", "DiffLine", "diff_files"]

LINE_CHARACTERS = 1_000
COLOURED_CHARACTERS = 60_000
"""What of one patch is coloured: some 50 ms of work; the rest stays plain."""

PIECE_CHARACTERS = 4_000
"""What is coloured at once. Many lexers take time by the square of it, of blank lines for example."""

COLOURING_S = 0.3
"""After which the rest of a patch stays plain: its author chooses the lexer, and what it gets."""

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,\d{1,9})? \+(\d{1,9})(?:,\d{1,9})? @@")
_SIGNS = {"+": "add", "-": "del", " ": "same"}
_monotonic = SystemClock().monotonic
_FORMATTER: HtmlFormatter[str] = HtmlFormatter(nowrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffLine:
    """A line: `kind` is add, del, same, hunk or note; numbers are 0 where there is none."""

    kind: str
    old: int = 0
    new: int = 0
    text: Markup


@dataclass(slots=True, kw_only=True)
class DiffFile:
    """A file of a patch; `about` are its lines before the hunks, such as a new mode."""

    path: str
    flagged: bool = False
    added: int = 0
    deleted: int = 0
    about: list[str] = field(default_factory=list[str])
    lines: list[DiffLine] = field(default_factory=list[DiffLine])


@dataclass(slots=True)
class _Hunk:
    old: int
    new: int
    head: str
    lines: list[str] = field(default_factory=list[str])


def diff_files(
    text: str,
    flagged: frozenset[str] = frozenset(),
    monotonic: Callable[[], float] = _monotonic,
) -> list[DiffFile]:
    """Return the files of a patch in git's form, in its order."""
    left, until = COLOURED_CHARACTERS, monotonic() + COLOURING_S

    def in_time() -> bool:
        return monotonic() < until

    files: list[DiffFile] = []
    for lines in _parts(text.split("\n")):
        file, hunks = _read(lines)
        file.flagged = file.path in flagged
        lexer = _lexer(file.path)
        for hunk in hunks:
            size = sum(map(len, hunk.lines))
            left -= size
            _add(file, hunk, lexer if left > 0 else None, in_time)
        files.append(file)
    return files


def _parts(lines: list[str]) -> Iterator[list[str]]:
    """Yield the lines of each file; what comes before the first belongs to none."""
    part: list[str] | None = None
    for line in lines:
        if line.startswith("diff --git "):
            if part is not None:
                yield part
            part = []
        if part is not None:
            part.append(line)
    if part is not None:
        yield part


def _read(lines: list[str]) -> tuple[DiffFile, list[_Hunk]]:
    file, hunks = DiffFile(path=_named(lines)), list[_Hunk]()
    for line in lines[1:]:
        found = _HUNK.match(line)
        if found is not None:
            hunks.append(_Hunk(int(found[1]), int(found[2]), line))
        elif hunks and line:
            hunks[-1].lines.append(line)
        elif line.startswith(
            ("new", "deleted", "old", "rename", "similarity", "Binary", "GIT binary")
        ):
            file.about.append(reveal(cut(line, LINE_CHARACTERS)))
    return file, hunks


def _named(lines: list[str]) -> str:
    """Return the path that a file has after the patch, or had before."""
    for start in ("+++ b/", "--- a/"):
        for line in lines[:10]:
            if line.startswith(start):
                return line.removeprefix(start).rstrip("\t")
    return lines[0].rpartition(" b/")[2]


def _lexer(path: str) -> Lexer | None:
    try:
        return get_lexer_for_filename(path.rpartition("/")[2], stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def _add(file: DiffFile, hunk: _Hunk, lexer: Lexer | None, in_time: Callable[[], bool]) -> None:
    file.lines.append(DiffLine(kind="hunk", text=escape(reveal(cut(hunk.head, LINE_CHARACTERS)))))
    bodies = [reveal(cut(line[1:], LINE_CHARACTERS)) for line in hunk.lines]
    coloured = [
        line for piece in _pieces(bodies) for line in _coloured(piece, lexer if in_time() else None)
    ]
    old, new = hunk.old, hunk.new
    for line, text in zip(hunk.lines, coloured, strict=True):
        kind = _SIGNS.get(line[:1], "note")
        if kind == "note":
            file.lines.append(DiffLine(kind=kind, text=escape(reveal(cut(line, LINE_CHARACTERS)))))
            continue
        file.lines.append(
            DiffLine(
                kind=kind,
                old=old if kind != "add" else 0,
                new=new if kind != "del" else 0,
                text=text,
            )
        )
        old, new = old + (kind != "add"), new + (kind != "del")
        file.added += kind == "add"
        file.deleted += kind == "del"


def _pieces(bodies: list[str]) -> Iterator[list[str]]:
    """Yield lines in pieces that a lexer takes at once."""
    piece, size = list[str](), 0
    for body in bodies:
        if piece and size + len(body) >= PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
        piece.append(body)
        size += len(body) + 1
    if piece:
        yield piece


def _coloured(bodies: list[str], lexer: Lexer | None) -> list[Markup]:
    """Return lines with their syntax marked; plain where the marks would not fit the lines."""
    if lexer is not None and sum(map(len, bodies)) < PIECE_CHARACTERS:
        html = highlight("\n".join(bodies), lexer, _FORMATTER)
        # Pygments escapes what it is given, and closes its marks at the end of each line; of empty
        # lines at the end it tells one less.
        lines = html.split("\n")[:-1]
        while len(lines) < len(bodies) and not bodies[len(lines)]:
            lines.append("")
        if len(lines) == len(bodies):
            return [Markup(line) for line in lines]  # noqa: S704
    return [escape(body) for body in bodies]
