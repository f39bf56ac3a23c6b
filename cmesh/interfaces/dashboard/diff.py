"""A patch as a page shows it: files, hunks, numbered lines, the syntax of each file in colours.

Pure: what has colours is named here (`pieces`) and marked elsewhere, as that can take long; what is
not marked is escaped all the same. A patch is another machine's text: what cannot be seen in it is
written out, and what is too long is cut.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from cmesh.text import cut, reveal

__all__ = ["DiffFile", "DiffLine", "Piece", "diff_files", "pieces"]

LINE_CHARACTERS = 1_000
COLOURED_CHARACTERS = 60_000
"""What of one patch is coloured, names included: some 50 ms of work; the rest stays plain."""

PIECE_CHARACTERS = 4_000
"""What is coloured at once. Many lexers take time by the square of it, of blank lines for example."""

Piece = tuple[str, tuple[str, ...]]
"""A file's name, and some of its lines."""

NAME_CHARACTERS = 255
"""Of a file's name, its end: more than a lexer is chosen by."""

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,\d{1,9})? \+(\d{1,9})(?:,\d{1,9})? @@")
_SIGNS = {"+": "add", "-": "del", " ": "same"}


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
    colours: Mapping[Piece, Sequence[str]] | None = None,
) -> list[DiffFile]:
    """Return the files of a patch in git's form, in its order; `colours` has HTML for pieces."""
    files: list[DiffFile] = []
    for lines in _parts(text.split("\n")):
        file, hunks = _read(lines)
        file.flagged = file.path in flagged
        for hunk in hunks:
            _add(file, hunk, colours or {})
        files.append(file)
    return files


def pieces(text: str) -> Iterator[Piece]:
    """Yield what of a patch is worth to be coloured, from its beginning."""
    left = COLOURED_CHARACTERS
    for lines in _parts(text.split("\n")):
        file, hunks = _read(lines)
        for hunk in hunks:
            for piece in _pieces(file.path, hunk):
                # INVARIANT: the name counts, too: it goes out with each piece, however many there are.
                left -= len(piece[0]) + sum(len(line) + 1 for line in piece[1])
                if left < 0:
                    return
                if _fits(piece):
                    yield piece


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


def _add(file: DiffFile, hunk: _Hunk, colours: Mapping[Piece, Sequence[str]]) -> None:
    file.lines.append(DiffLine(kind="hunk", text=escape(reveal(cut(hunk.head, LINE_CHARACTERS)))))
    coloured = [
        line for piece in _pieces(file.path, hunk) for line in _marked(piece, colours.get(piece))
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


def _pieces(path: str, hunk: _Hunk) -> Iterator[Piece]:
    """Yield a hunk's lines in pieces that a lexer takes at once; a long line is one by itself."""
    name = path.rpartition("/")[2][-NAME_CHARACTERS:]
    piece, size = list[str](), 0
    for body in (reveal(cut(line[1:], LINE_CHARACTERS)) for line in hunk.lines):
        if piece and size + len(body) >= PIECE_CHARACTERS:
            yield name, tuple(piece)
            piece, size = [], 0
        piece.append(body)
        size += len(body) + 1
    if piece:
        yield name, tuple(piece)


def _fits(piece: Piece) -> bool:
    return sum(map(len, piece[1])) < PIECE_CHARACTERS


def _marked(piece: Piece, lines: Sequence[str] | None) -> list[Markup]:
    if lines is None or len(lines) != len(piece[1]):
        return [escape(body) for body in piece[1]]
    return [Markup(line) for line in lines]  # noqa: S704 - escaped by what has coloured it
