"""Where secrets stand in a patch or a file: kind, path and line, each line without its secret.

Pure. What is found is what the redactor finds now; the bytes themselves are not changed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cmesh.redact import Redactor, Stream
from cmesh.text import cut, one_line, scrub

__all__ = ["Found", "find_secrets"]

LINE_BYTES = 1024 * 1024
"""Of a line without an end, such as in a binary file, so much is looked at in one piece."""

TEXT_CHARACTERS, PATH_CHARACTERS = 160, 300
_MARK = re.compile(rb"\[secret:([a-z ]*)(\]?)")
_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_KIND = "secret"
_KEY = "private key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One place: `kind` as the redactor names it, `place` as path:line, `text` without secrets."""

    kind: str
    place: str
    text: str


def find_secrets(
    pieces: Iterable[bytes], redactor: Redactor, *, path: str = "", most: int = 50
) -> tuple[list[Found], int]:
    """Return the first `most` places and the count of all; an empty `path` means a patch.

    A place in a patch is a line of the changed file, or of the one before for a removed line.
    """
    found: list[Found] = []
    count = 0
    where = _InFile(path) if path else _InPatch()
    in_key = False
    for raw, clean, whole in _lines(pieces, redactor):
        place = where.next(raw, clean, whole=whole)
        if raw == clean:
            in_key = False
            continue
        for kind in _kinds(raw, clean):
            if kind == _KEY and in_key:  # one key has many lines
                continue
            in_key = kind == _KEY
            count += 1
            if len(found) < most:
                text = scrub(clean[: 4 * TEXT_CHARACTERS].decode("utf-8", "replace"))
                shown = cut(one_line(text, TEXT_CHARACTERS), TEXT_CHARACTERS)
                found.append(Found(kind=kind, place=place, text=shown))
    return found, count


def _lines(pieces: Iterable[bytes], redactor: Redactor) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield each line as it is and as it is told, and whether it has ended.

    INVARIANT: a secret gives way to a mark of its own length, so both stand at equal offsets.
    """
    stream = Stream(redactor)
    raw, clean = bytearray(), bytearray()

    def ended() -> Iterator[tuple[bytes, bytes, bool]]:
        while (end := clean.find(b"\n")) >= 0 or len(clean) > LINE_BYTES:
            size = end + 1 if end >= 0 else LINE_BYTES
            yield bytes(raw[:size]), bytes(clean[:size]), end >= 0
            del raw[:size], clean[:size]

    for data in pieces:
        raw += data
        clean += stream.feed(data)
        yield from ended()
    clean += stream.finish()
    yield from ended()
    if clean:
        yield bytes(raw), bytes(clean), True


def _kinds(raw: bytes, clean: bytes) -> list[str]:
    """Return the kinds of the marks in a line that are not in it as it is."""
    kinds = [
        mark[1].decode() if mark[2] else _NO_KIND  # of a short secret the mark is cut
        for mark in _MARK.finditer(clean)
        if raw[mark.start() : mark.end()] != mark[0]
    ]
    if kinds:
        return kinds
    first = next(at for at, (one, other) in enumerate(zip(raw, clean, strict=True)) if one != other)
    # A mark that is cut to less than its first word, or a line of a private key.
    return [_KEY if clean[first : first + 1] == b"*" else _NO_KIND]


class _InFile:
    """Counts the lines of a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._line = 1

    def next(self, _raw: bytes, _clean: bytes, *, whole: bool) -> str:
        place = f"{self._path}:{self._line}"
        self._line += whole
        return place


class _InPatch:
    """Follows a patch: which file, which line of it."""

    def __init__(self) -> None:
        self._path = ""
        self._old = self._new = 0
        self._old_left = self._new_left = 0

    def next(self, line: bytes, clean: bytes, *, whole: bool) -> str:
        # Of a private key a whole line is hidden: the line as it is says what it is.
        if self._old_left > 0 or self._new_left > 0:
            return self._in_hunk(line, whole=whole)
        hunk = _HUNK.match(line)
        if hunk:
            self._old, self._new = int(hunk[1]), int(hunk[3])
            self._old_left, self._new_left = int(hunk[2] or 1), int(hunk[4] or 1)
        elif line.startswith(b"diff --git "):
            self._path = ""
        elif line.startswith((b"--- ", b"+++ ")):
            name = _name(clean[4:])
            self._path = name or self._path
        return self._path or "in the patch's own lines"

    def _in_hunk(self, line: bytes, *, whole: bool) -> str:
        removed, added = line.startswith(b"-"), line.startswith(b"+")
        place = f"{self._path}:{self._old} (removed)" if removed else f"{self._path}:{self._new}"
        if whole and not line.startswith(b"\\"):
            self._old, self._old_left = self._old + (not added), self._old_left - (not added)
            self._new, self._new_left = self._new + (not removed), self._new_left - (not removed)
        return place


def _name(words: bytes) -> str:
    """Return the path of a header's line; empty = there is none on this side."""
    text = one_line(words.decode("utf-8", "replace").strip().strip('"'), PATH_CHARACTERS)
    return "" if text == "/dev/null" else text[2:] if text[:2] in ("a/", "b/") else text
