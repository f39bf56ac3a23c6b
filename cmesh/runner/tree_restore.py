"""Gives a copy what is committed, where its source has something else. Standard library only."""

import contextlib
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from collections.abc import Iterable, Mapping

    from cmesh.runner.tree_copy import LINK, PROGRAM
    from cmesh.runner.tree_git import Git, Trouble
    from cmesh.runner.tree_names import REPOSITORY
else:
    from tree_copy import LINK, PROGRAM
    from tree_git import Git, Trouble
    from tree_names import REPOSITORY

__all__ = ["differing", "go_on", "pointed", "restore"]

POINTER_BYTES = 1024
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:.+\n)*?oid sha256:([0-9a-f]{64})\n"
)
"""What git LFS commits in the place of a file (its spec.md)."""


def restore(
    git: Git,
    wanted: "Mapping[str, tuple[str, str]]",
    copied: "Mapping[str, tuple[str, str]]",
    target: str,
    most: int,
) -> "dict[str, tuple[str, str]]":
    """Give a copy what git has under these names; return those that are kept as they were copied.

    The latter are what git LFS put in the place of the pointers that are committed, unchanged.

    Raises:
        Trouble: an object is not there, or all have more than `most` bytes.
    """
    kept: dict[str, tuple[str, str]] = {}
    size = 0
    asked = [oid for _mode, oid in wanted.values()]
    contents = git.contents(asked)
    with contextlib.closing(contents):
        for (name, (mode, _oid)), data in zip(wanted.items(), contents, strict=True):
            place, before = os.path.join(target, name), copied.get(name)
            if before and before[0] == mode != LINK and _points_to(data, place):
                kept[name] = before
                continue
            size += len(data)
            if size > most:
                raise Trouble(f"its files have more than the {most} bytes of a copy")
            os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
            if mode == LINK:
                os.symlink(data, os.fsencode(place))
            else:
                with open(_new(place, mode), "wb") as file:
                    file.write(data)
    return kept


def go_on(git: Git, base: str, patch: str, target: str, most: int) -> None:
    """Give a copy of the tree `base` what a patch makes of it: that of the turn before.

    `git` has an index of its own, for this alone. The copy differs from `base` by the patch then.

    Raises:
        Trouble: the patch does not fit, or its files have more than `most` bytes.
    """
    git.run("read-tree", base)
    git.run("apply", "--cached", "--whitespace=nowarn", "-p1", patch)
    new = git.run("write-tree", "--missing-ok").decode().strip()
    raw = git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", base, new)
    fields = os.fsdecode(raw).split("\0")[:-1]
    wanted: dict[str, tuple[str, str]] = {}
    # All that goes away goes first: a file may come where a folder was, or a folder at a link.
    for words, name in zip(fields[::2], fields[1::2], strict=True):
        before, mode, _oid, oid, letter = words.removeprefix(":").split()
        if REPOSITORY in {before, mode}:
            raise Trouble("the patch of the turn before changes another repository")
        if letter != "A":
            _remove(target, name)
        if letter != "D":
            wanted[name] = (mode, oid)
    restore(git, wanted, {}, target, most)


def _remove(target: str, name: str) -> None:
    """Remove a file of a copy, and the folders above it that it leaves empty."""
    os.unlink(os.path.join(target, name))
    while name := os.path.dirname(name):
        try:
            os.rmdir(os.path.join(target, name))
        except OSError:  # something is in it
            return


def _new(place: str, mode: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.open(place, flags, 0o777 if mode == PROGRAM else 0o666)


def pointed(git: Git, ids: "Iterable[tuple[str, str]]") -> list[str]:
    """Return the names among pairs of an object and a name whose object is a pointer of git LFS."""
    pairs = [*ids]
    asked = "".join(f"{oid}\n" for oid, _name in pairs).encode()
    said = git.run("cat-file", "--batch-check=%(objecttype) %(objectsize)", data=asked)
    sizes = [line.split() for line in said.decode().splitlines()]
    small = [
        pair
        for pair, (kind, *size) in zip(pairs, sizes, strict=True)
        if kind == "blob" and int(size[0]) <= POINTER_BYTES
    ]
    with contextlib.closing(git.contents(oid for oid, _name in small)) as contents:
        found = zip(small, contents, strict=True)
        return [name for (_oid, name), data in found if _POINTER.match(data)]


def _points_to(data: bytes, place: str) -> bool:
    """Say whether `data` is the pointer of git LFS to the file that is there."""
    found = _POINTER.match(data) if len(data) <= POINTER_BYTES else None
    if found is None:
        return False
    import hashlib  # for git LFS alone

    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode() == found[1]


def differing(
    known: "Mapping[str, tuple[str, str]]", copied: "Mapping[str, tuple[str, str]]"
) -> "dict[str, tuple[str, str]]":
    """Return what is known of the names that were not copied as they are known."""
    return {
        name: entry
        for name, entry in known.items()
        if entry[0] != REPOSITORY and copied.get(name) != entry
    }
