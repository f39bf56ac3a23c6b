"""What a patch may do to a tree, and what state of a tree it may meet. Pure: values in and out.

A patch was written by an agent of another machine: nothing in it is taken on trust, its names
least of all.
"""

import posixpath
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cmesh.runner.tree import FILE, LINK, PROGRAM, is_telling
from cmesh.runner.tree_names import REPOSITORY, fits

__all__ = [
    "APPLYING",
    "Base",
    "Change",
    "Entry",
    "Numbers",
    "Objection",
    "Relation",
    "blocking",
    "change_trouble",
    "collisions",
    "dirty",
    "flagged",
    "link_trouble",
    "name_trouble",
]

Entry = tuple[str, str]
"""Mode and object of a name, as git writes them."""

Relation = Literal["same", "ahead", "behind", "diverged", "missing", "unknown"]
"""How the current commit stands to a patch's base. `ahead`: it has the base among its ancestors;
`behind`: it is one of the base's; `missing`: the base is not here; `unknown`: the patch names none,
or nothing is committed here.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a patch was made of, and where the tree stands.

    Attributes:
        commit: full id; empty = made of a directory that was no repository.
        head: the current commit here; empty = there is none.
        ahead: commits of `head` that the base does not have; `behind` the other way round.
    """

    commit: str
    head: str
    relation: Relation
    ahead: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One changed path and its lines; `added` and `deleted` are None for a binary file."""

    name: str
    added: int | None
    deleted: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path as it is and as it would be; None = it is not there.

    Attributes:
        target: where it leads, for what becomes a link.
    """

    name: str
    before: Entry | None
    after: Entry | None
    target: str = ""

    @property
    def letter(self) -> str:
        """Return what happens to it, as git says it: A, D, M or T."""
        if self.before is None or self.after is None:
            return "A" if self.before is None else "D"
        return "T" if (self.before[0] == LINK) != (self.after[0] == LINK) else "M"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why a patch is not applied.

    Attributes:
        code: that of an error.
        why: our own words, no name in them that the patch chose.
        names: the paths it is about, which another machine chose.
        next: what the person may do.
    """

    code: str
    why: str
    names: Sequence[str] = ()
    next: str = ""


APPLYING = ".cmesh-apply"
"""A folder at the top of a tree, while an apply is at work whose git directory is elsewhere."""

_MODES = {FILE, PROGRAM, LINK}
_GIT = {".git", "git~1"}
# What HFS+ leaves out of a name when it compares, as git's own check has them.
_IGNORED = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF]
)


def name_trouble(name: str) -> str:
    """Return why a path may not be written, in our own words; empty = it may."""
    if not name or "\0" in name:
        return "it is no name"
    if name.startswith("/"):
        return "it is an absolute path"
    if "\\" in name:
        return "it has a backslash, which is a separator on other systems"
    parts = name.split("/")
    if {"", ".", ".."} & set(parts):
        return "it does not stay in the tree"
    if any(_is_git(part) for part in parts):
        return "git takes a part of it for its own directory"
    if _folded(parts[0]) == APPLYING:
        return "`cmesh apply` keeps its own work under that name"
    if not fits(name):
        return "it is too long or too deep"
    return ""


def _is_git(part: str) -> bool:
    """Say whether git, on any system, takes one part of a path for `.git`."""
    # NTFS ends a name at `:` and drops dots and spaces at its end; HFS+ drops code points.
    plain = part.translate(_IGNORED).lower().partition(":")[0].rstrip(". ")
    return plain in _GIT


def change_trouble(change: Change) -> str:
    """Return why a change of a path is none that a patch of cmesh has; empty = it may be."""
    for entry in (change.before, change.after):
        if entry is not None and entry[0] == REPOSITORY:
            return "it is another repository, a submodule"
        if entry is not None and entry[0] not in _MODES:
            return "it is no file, program or link"
    return link_trouble(change) if change.after and change.after[0] == LINK else ""


def link_trouble(change: Change) -> str:
    """Return why a link may not be made."""
    target = change.target
    if not target or "\0" in target or "\\" in target:
        return "it is a link without a plain target"
    if target.startswith("/"):
        return "it is a link to an absolute path"
    parts = [part for part in target.split("/") if part not in {"", "."}]
    if any(_is_git(part) for part in parts):
        return "it is a link into git's own directory"
    up = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    # INVARIANT: no `..` after a name: that may be a link itself, and lead above the tree by it.
    if up > change.name.count("/") or ".." in parts[up:]:
        return "it is a link out of the tree"
    return ""


def blocking(changes: Iterable[Change], there: Collection[str] = ()) -> list[str]:
    """Return names that would have to be a file and a folder at once, beside those in `there`."""
    changes = list(changes)
    after = {change.name for change in changes if change.after is not None}
    gone = {change.name for change in changes if change.after is None}
    files = after | set(there) - gone
    folders = {up for name in files for up in _above(name)}
    return [name for name in sorted(after) if name in folders or files & set(_above(name))]


def collisions(changes: Iterable[Change], tracked: Collection[str]) -> list[str]:
    """Return new names that some systems take for another one, each with that: `a (like A)`."""
    changes = list(changes)
    there: dict[str, str] = {}
    gone = {change.name for change in changes if change.after is None}
    for name in tracked:
        if name not in gone:
            for one in (name, *_above(name)):
                there.setdefault(_folded(one), one)
    found: list[str] = []
    for change in changes:
        if change.after is None:
            continue
        for one in (change.name, *_above(change.name)):
            other = there.setdefault(_folded(one), one)
            if other != one:
                found.append(f"{change.name} (like {other})")
                break
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _above(name: str) -> list[str]:
    """Return the folders of a path, the nearest first."""
    folders: list[str] = []
    while name := posixpath.dirname(name):
        folders.append(name)
    return folders


def flagged(changes: Iterable[Change]) -> list[str]:
    """Return what is to be looked at first: it runs or instructs by being there."""
    found: list[str] = []
    for change in changes:
        after = change.after
        if after is None:
            continue
        runs = after[0] == PROGRAM and (change.before is None or change.before[0] != PROGRAM)
        if runs or is_telling(change.name, after[0]):
            lead = f" -> {change.target}" if after[0] == LINK else ""
            found.append(f"{change.name}{lead}")
    return found


def dirty(
    seen: Mapping[str, Entry | None],
    index: Mapping[str, Entry],
    head: Mapping[str, Entry],
    modified: Collection[str],
) -> list[str]:
    """Return the names among `seen` that have changes nobody has committed.

    Args:
        seen: the paths a patch touches, as their bytes are in the work tree.
        index: what git's index names.
        head: what the current commit names.
        modified: names that git, by its own settings, calls changed since the index.
    """
    found: list[str] = []
    for name, now in seen.items():
        staged, committed = index.get(name), head.get(name)
        # Line ends and filters make a clean file's bytes differ from the index: git knows those.
        changed = now != staged and (name in modified or staged is None)
        if staged != committed or changed:
            found.append(name)
    return found
