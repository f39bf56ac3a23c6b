"""Which files a task's globs mean, and what they hold: read beneath an open directory.

Everything here was written by an agent: names are compared, bytes are copied, hashed and looked
through. No link is followed, nothing is run, nothing is changed.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
    "check_globs",
    "find",
    "is_asked",
    "take",
]

ARTIFACTS_MOST, ARTIFACTS_BYTES = 64, 256 * 1024 * 1024
"""What one task may hand over; all of it together."""

ENTRIES_MOST = 200_000
DEEP_MOST = 64
"""Folders in one another."""

STEPS_MOST = 4_000_000
"""Comparisons of a name with a part of a glob, which take a microsecond each."""

GLOBS_MOST, GLOB_CHARACTERS = 16, 200
TOO_LARGE, UNREADABLE = "artifact_too_large", "artifact_unreadable"
_CHUNK_BYTES = 1024 * 1024
_NEVER = ".git"
_ANY = "**"


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
                if name.lower() == _NEVER or not any(after):
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


def is_asked(globs: Sequence[str], path: str) -> bool:
    """Say whether a glob means a file of this name, by the rules of `find`."""
    wanted = Wanted(globs)
    states = wanted.begin()
    for name in path.split("/"):
        states = wanted.after(states, name)
    return wanted.ends(states)


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


States = tuple[frozenset[int], ...]
"""How far each glob may have come at a folder; an empty set = it does not lead there."""


class Wanted:
    """What globs mean, asked folder by folder. Attributes: `steps`, the comparisons so far."""

    def __init__(self, globs: Sequence[str]) -> None:
        self.steps = 0
        self._globs = [glob.split("/") for glob in globs]

    def begin(self) -> States:
        """Return how far each glob has come at the root."""
        return tuple(self._with_none(glob, {0}) for glob in self._globs)

    def after(self, states: States, name: str) -> States:
        """Return how far each glob may have come after one more name."""
        return tuple(
            self._with_none(glob, {one for at in before for one in self._step(glob, at, name)})
            for glob, before in zip(self._globs, states, strict=True)
        )

    def ends(self, states: States) -> bool:
        """Say whether a glob ends there."""
        return any(len(glob) in at for glob, at in zip(self._globs, states, strict=True))

    def _step(self, glob: list[str], at: int, name: str) -> Iterator[int]:
        self.steps += 1
        if at == len(glob):
            return
        if glob[at] == _ANY:
            if not name.startswith("."):
                yield at
        elif fnmatchcase(name, glob[at]) and (glob[at].startswith(".") or not name.startswith(".")):
            yield at + 1

    @staticmethod
    def _with_none(glob: list[str], states: set[int]) -> frozenset[int]:
        """Add the places after each `**` that stands for no folder at all."""
        waiting, found = list(states), set(states)
        while waiting:
            at = waiting.pop()
            if at < len(glob) and glob[at] == _ANY and at + 1 not in found:
                found.add(at + 1)
                waiting.append(at + 1)
        return frozenset(found)
