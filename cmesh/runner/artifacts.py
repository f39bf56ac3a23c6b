"""Which files a task's globs mean, and what they hold: read beneath an open directory.

Everything here was written by an agent: names are compared, bytes are copied, hashed and looked
through. No link is followed, nothing is run, nothing is changed.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cmesh.beneath import open_file
from cmesh.errors import SecretFound, UsageError
from cmesh.redact import Redactor, Stream
from cmesh.text import is_plain_path, one_line

__all__ = [
    "ARTIFACTS_BYTES",
    "ARTIFACTS_MOST",
    "Taken",
    "check_globs",
    "find",
    "take",
]

ARTIFACTS_MOST, ARTIFACTS_BYTES = 64, 256 * 1024 * 1024
"""What one task may hand over; all of it together."""

ENTRIES_MOST = 200_000
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
    Links and all that is neither file nor folder count as not there.
    """
    wanted = [glob.split("/") for glob in globs]
    names: list[str] = []
    left_out = seen = 0
    for path, is_file in _below(root, wanted):
        seen += 1
        if seen > ENTRIES_MOST:
            return sorted(names)[:ARTIFACTS_MOST], left_out + 1
        if not is_file or not any(_ends(glob, path.split("/")) for glob in wanted):
            continue
        if is_plain_path(path):
            names.append(path)
        else:
            left_out += 1
    names.sort()
    return names[:ARTIFACTS_MOST], left_out + max(0, len(names) - ARTIFACTS_MOST)


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


def _below(root: int, wanted: Sequence[list[str]]) -> Iterator[tuple[str, bool]]:
    """Yield what lies in the folders that a glob may lead into; True = it is a file."""
    for folder, folders, files, fd in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        above = [part for part in folder.split("/") if part != "."]
        folders[:] = [
            name
            for name in folders
            if name.lower() != _NEVER and any(_states(glob, [*above, name]) for glob in wanted)
        ]
        for name in folders:
            yield "/".join([*above, name]), False
        for name in files:
            with contextlib.suppress(OSError):  # gone again
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield "/".join([*above, name]), stat.S_ISREG(info.st_mode)


def _ends(glob: list[str], parts: list[str]) -> bool:
    return len(glob) in _states(glob, parts)


def _states(glob: list[str], parts: list[str]) -> set[int]:
    """Return how far a glob may have come after these parts; empty = it does not lead there."""
    states = _with_none(glob, {0})
    for part in parts:
        states = _with_none(glob, {state for at in states for state in _step(glob, at, part)})
    return states


def _step(glob: list[str], at: int, part: str) -> Iterator[int]:
    if at == len(glob):
        return
    if glob[at] == _ANY:
        if not part.startswith("."):
            yield at
    elif fnmatchcase(part, glob[at]) and (glob[at].startswith(".") or not part.startswith(".")):
        yield at + 1


def _with_none(glob: list[str], states: set[int]) -> set[int]:
    """Add the places after each `**` that stands for no folder at all."""
    found = set(states)
    for at in range(len(glob)):
        if at in found and glob[at] == _ANY:
            found.add(at + 1)
    return found
