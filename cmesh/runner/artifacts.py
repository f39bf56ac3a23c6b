"""Which files a task's globs mean, and what they hold: read beneath an open directory.

Everything here was written by an agent: names are compared, bytes are copied, hashed and looked
through. No link is followed, nothing is run, nothing is changed.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from cmesh.beneath import open_file, open_part
from cmesh.errors import SecretFound, UsageError
from cmesh.redact import Redactor, Stream
from cmesh.text import is_plain_path, one_line

__all__ = [
    "ARTIFACTS_BYTES",
    "ARTIFACTS_MOST",
    "Taken",
    "Wanted",
    "asked",
    "check_globs",
    "find",
    "take",
]

ARTIFACTS_MOST, ARTIFACTS_BYTES = 64, 256 * 1024 * 1024
"""What one task may hand over; all of it together."""

ENTRIES_MOST = 200_000
DEEP_MOST = 64
"""Folders in one another."""

STEPS_MOST = 4_000_000
"""Comparisons of a name with a part of a glob, which take a microsecond each."""

ASKED_STEPS_MOST = 50_000
"""The same where no thread of its own compares: 64 files of 16 globs need some thousands."""

GLOBS_MOST, GLOB_CHARACTERS = 16, 200
TOO_LARGE, UNREADABLE = "artifact_too_large", "artifact_unreadable"
_CHUNK_BYTES = 1024 * 1024
_NEVER = ".git"
_ANY = "**"
_CHARACTERS = 1_024
"""Characters of a name times those of a part that count as one more comparison."""
_COMPILED_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One file.

    Attributes:
        path: below the directory.
        file: a copy of it; None = its bytes are not there.
        withheld: why they are not given out: `secret_found`, `artifact_too_large`,
            `artifact_unreadable`; empty = they are.
    """

    path: str
    bytes: int = 0
    sha256: str = ""
    file: Path | None = None
    withheld: str = ""


def check_globs(globs: Sequence[str]) -> None:
    """Check that globs are relative, few and short.

    Raises:
        UsageError: one is not; names it.
    """
    if len(globs) > GLOBS_MOST:
        raise UsageError(f"a task takes at most {GLOBS_MOST} globs for artifacts", hint="")
    for glob in globs:
        if len(glob) > GLOB_CHARACTERS or not is_plain_path(glob):
            raise UsageError(
                f"`{one_line(glob, 80)}` is no glob for artifacts",
                hint="name files below the task's directory, for example `dist/*.whl`",
            )


def find(root: int, globs: Sequence[str]) -> tuple[list[str], int]:
    """Return the names of files that a glob means, sorted, and how many were left out.

    `*` means a name, or part of one, that does not begin with a dot; `**` any number of folders.
    Links and all that is neither file nor folder count as not there. What cannot be looked
    through, because it is too deep, too much or not to be opened, counts as one left out each.
    """
    # INVARIANT: names are an agent's, globs a caller's. Together they make neither this run long
    # nor hold many descriptors: what a folder's names are compared with is kept from the one
    # above, all comparisons are counted, and one folder is open at a time.
    wanted = Wanted(globs)
    names: list[str] = []
    left_out = seen = 0
    folders = [("", wanted.begin())]
    while folders:
        above, states = folders.pop()
        try:
            entries = _entries(root, above)
        except OSError:
            left_out += 1
            continue
        for name, is_folder in entries:
            seen += 1
            if seen > ENTRIES_MOST or wanted.steps > STEPS_MOST:
                return sorted(names)[:ARTIFACTS_MOST], left_out + 1
            path, after = f"{above}/{name}" if above else name, wanted.after(states, name)
            if is_folder:
                if name.lower() == _NEVER or not after:
                    continue
                if path.count("/") < DEEP_MOST:
                    folders.append((path, after))
                else:
                    left_out += 1
            elif wanted.ends(after):
                if is_plain_path(path):
                    names.append(path)
                else:
                    left_out += 1
    names.sort()
    return names[:ARTIFACTS_MOST], left_out + max(0, len(names) - ARTIFACTS_MOST)


def asked(globs: Sequence[str], paths: Sequence[str]) -> tuple[frozenset[str], bool]:
    """Return the paths that a glob means, by the rules of `find`, and whether all were compared.

    A path that was not compared, because it would take too long, is none that a glob means.
    """
    # INVARIANT: globs are an agent's, paths another machine's, and this runs where all wait. So a
    # folder that paths share is compared once, and all comparisons are counted.
    wanted = Wanted(globs)
    known: dict[str, int] = {}
    meant: set[str] = set()
    for path in paths:
        folder, states = "", wanted.begin()
        for name in path.split("/"):
            folder = f"{folder}/{name}"
            if folder not in known:
                if wanted.steps > ASKED_STEPS_MOST:
                    return frozenset(meant), False
                known[folder] = wanted.after(states, name)
            states = known[folder]
        if wanted.ends(states):
            meant.add(path)
    return frozenset(meant), True


def take(root: int, names: Sequence[str], into: Path, redactor: Redactor) -> Iterator[Taken]:
    """Yield each file, copied to `into/artifact-N`; what holds a secret is copied and withheld.

    Raises:
        OSError: there is no room for a copy.
    """
    room = ARTIFACTS_BYTES
    for number, name in enumerate(names):
        try:
            fd = open_file(root, name)
        except OSError:
            yield Taken(path=name, withheld=UNREADABLE)
            continue
        with os.fdopen(fd, "rb") as source:
            size = os.fstat(fd).st_size
            if size > room:
                yield Taken(path=name, bytes=size, withheld=TOO_LARGE)
                continue
            target = into / f"artifact-{number}"
            hasher, stream, copied = hashlib.sha256(), Stream(redactor), 0
            with target.open("wb") as copy:
                # It may grow meanwhile; what was announced is what is taken.
                while data := source.read(min(_CHUNK_BYTES, size - copied)):
                    copied += len(data)
                    hasher.update(data)
                    stream.feed(data)
                    copy.write(data)
            stream.finish()
        room -= copied
        withheld = SecretFound.code if stream.hits else ""
        yield Taken(
            path=name, bytes=copied, sha256=hasher.hexdigest(), file=target, withheld=withheld
        )


def _entries(root: int, folder: str) -> list[tuple[str, bool]]:
    """Return the files and folders of a folder below `root`; True = it is a folder.

    Raises:
        OSError: it cannot be opened, or is not what it was any more.
    """
    place = open_part(root, folder) if folder else os.dup(root)
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
    found: list[tuple[str, bool]] = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if len(found) > ENTRIES_MOST:
                    break
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder or entry.is_file(follow_symlinks=False):
                    found.append((entry.name, is_folder))
    finally:
        os.close(fd)
    return found


class Wanted:
    """What globs mean, asked folder by folder. Attributes: `steps`, the comparisons so far.

    States are one number: the bit of a part is set where its glob may have come to it, the bit
    after its last part where the glob ends; 0 = no glob leads there. One name takes all globs a
    step on at once (a bit-parallel NFA, as in Baeza-Yates and Gonnet, CACM 35(10), 1992), and is
    compared once with each different part that is next.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        self.steps = 0
        self._start = self._any = self._wild = self._end = 0
        self._parts: list[str] = []
        self._places: dict[str, int] = {}
        self._compiled: dict[str, re.Pattern[str]] = {}
        for glob in globs:
            self._start |= 1 << len(self._parts)
            for part in _parts(glob):
                place = 1 << len(self._parts)
                self._parts.append(part)
                self._places[part] = self._places.get(part, 0) | place
                if part == _ANY:
                    self._any |= place
                elif any(mark in part for mark in "*?["):
                    self._wild |= place
            self._end |= 1 << len(self._parts)
            self._parts.append("")

    def begin(self) -> int:
        """Return how far the globs have come at the root."""
        return self._with_none(self._start)

    def after(self, states: int, name: str) -> int:
        """Return how far the globs may have come after one more name."""
        self.steps += 1
        hidden = name.startswith(".")
        stays = 0 if hidden else states & self._any
        # A name may be written as a pattern is; what fits patterns is found below.
        fits = self._places.get(name, 0) & ~(self._any | self._wild)
        waiting = states & self._wild
        while waiting:
            part = self._parts[(waiting & -waiting).bit_length() - 1]
            places = self._places[part]
            waiting &= ~places
            if (part.startswith(".") or not hidden) and self._fits(part, name):
                fits |= places
        return self._with_none(stays | (states & fits) << 1)

    def ends(self, states: int) -> bool:
        """Say whether a glob ends there."""
        return bool(states & self._end)

    def _fits(self, part: str, name: str) -> bool:
        self.steps += 1 + len(part) * len(name) // _CHARACTERS
        if part == "*":
            return True
        if part not in self._compiled:
            self.steps += _COMPILED_STEPS
            self._compiled[part] = re.compile(translate(part))
        return self._compiled[part].match(name) is not None

    def _with_none(self, states: int) -> int:
        """Add the place after each `**`, which may stand for no folder at all."""
        return states | (states & self._any) << 1


def _parts(glob: str) -> list[str]:
    """Return the parts of a glob; of several `**` in a row one, which means the same."""
    parts = glob.split("/")
    return [part for at, part in enumerate(parts) if part != _ANY or parts[at - 1 : at] != [_ANY]]
