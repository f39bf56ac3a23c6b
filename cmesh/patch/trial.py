"""A patch tried aside: in a repository of its own that holds the touched paths and nothing else.

Git reads the patch here, and nobody's settings, attributes, hooks or work tree: what it says of
names, conflicts and results is about bytes. The person's index and files are not touched.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmesh.errors import PatchConflict, PatchRefused
from cmesh.patch.git import Git
from cmesh.patch.judge import Change, Entry, Numbers
from cmesh.patch.repository import FILE_BYTES, Found
from cmesh.runner.tree import LINK
from cmesh.runner.tree_git import joined

__all__ = ["PATHS_MOST", "RESULT_BYTES", "Trial", "Tried"]

PATHS_MOST = 5_000
"""Touched paths; a patch with more is for a person's own tools."""

RESULT_BYTES = 512 * 1024 * 1024
"""What all changed files may have together: a binary patch can say very much in few bytes."""

TARGET_BYTES = 4096

_FORM = ("--whitespace=nowarn", "-p1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How a trial ended.

    Attributes:
        entries: all that the trial's index names afterwards; None = it does not apply.
        conflicts: paths that do not fit, each with why in our own words.
    """

    entries: Mapping[str, Entry] | None
    conflicts: Mapping[str, str]


class Trial:
    """A repository in a directory of its own, and a patch."""

    def __init__(self, place: Path, patch: bytes, *, kind: str, below: str, objects: str) -> None:
        """Prepare it in `place`, which is empty and private. Blocks.

        Args:
            place: removed by the caller.
            patch: as its worker signed it.
            kind: of the hashes.
            below: what stands before each of its paths; ends with `/`, or is empty.
            objects: where to read objects besides; empty = nowhere.
        """
        self._place = place
        self._patch = place / "patch"
        self._patch.write_bytes(patch)
        self._form = (*_FORM, *((f"--directory={below[:-1]}",) if below else ()))
        repository = place / "repository"
        self.git = Git("/", GIT_DIR=str(repository), HOME=str(place))
        self.git.run("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
        if objects:
            if "\n" in objects:
                raise PatchConflict("a repository's path has a line's end in it")
            (repository / "objects/info").mkdir(exist_ok=True)
            (repository / "objects/info/alternates").write_text(f"{objects}\n")
        self._seeds: Mapping[str, Entry | None] = {}

    def numbers(self) -> list[Numbers]:
        """Return the paths that git finds in the patch.

        Raises:
            PatchRefused: git cannot read it, or there are too many.
        """
        done = self.git.result("apply", "--numstat", "-z", *self._form, str(self._patch))
        if done.returncode:
            raise PatchRefused("git cannot read the patch")
        found: dict[str, Numbers] = {}
        for record in os.fsdecode(done.stdout).split("\0")[:-1]:
            added, deleted, name = record.split("\t", 2)
            one = Numbers(name=name, added=_number(added), deleted=_number(deleted))
            if name in found:
                raise PatchRefused("the patch changes a path twice")
            found[name] = one
        if len(found) > PATHS_MOST:
            raise PatchRefused(f"the patch changes more than {PATHS_MOST} paths")
        return [found[name] for name in sorted(found)]

    def seed(self, found: Mapping[str, Found]) -> Mapping[str, Entry | None]:
        """Take the bytes that are in a work tree as what the patch meets; return their entries."""
        seeds = self._place / "seeds"
        seeds.mkdir()
        paths: dict[str, Path] = {}
        for at, (name, one) in enumerate(found.items()):
            if one.mode:
                paths[name] = seeds / str(at)
                paths[name].write_bytes(one.data)
        data = "".join(f"{path}\n" for path in paths.values()).encode()
        said = self.git.run("hash-object", "-w", "--no-filters", "--stdin-paths", data=data)
        oids = dict(zip(paths, said.decode().split(), strict=True))
        self._seeds = {
            name: (one.mode, oids[name]) if one.mode else None for name, one in found.items()
        }
        return self._seeds

    def seed_entries(self, entries: Mapping[str, Entry | None]) -> None:
        """Take what a commit has under the touched paths as what the patch meets."""
        self._seeds = entries

    def apply(self, *, reverse: bool = False) -> Tried:
        """Apply the patch to what was seeded; `reverse` asks whether it is there already."""
        done = self._apply(self.git, *(("--reverse",) if reverse else ()))
        if done.returncode:
            return Tried(entries=None, conflicts=_conflicts(done.stderr, self._seeds))
        return Tried(entries=self._entries(), conflicts={})

    def _apply(self, git: Git, *words: str) -> "subprocess.CompletedProcess[bytes]":
        # INVARIANT: the index has the paths that were judged and no other, so that a rename or a
        # copy of a path that git did not count among the patch's has nothing to take.
        lines = [f"{e[0]} {e[1]} 0\t{name}" for name, e in self._seeds.items() if e]
        git.run("read-tree", "--empty")
        git.run("update-index", "-z", "--index-info", data=joined(lines))
        return git.result("apply", "--cached", *words, *self._form, str(self._patch))

    def changes(self, after: Mapping[str, Entry]) -> list[Change]:
        """Return what differs from what was seeded.

        Raises:
            PatchRefused: something is too long.
        """
        names = [name for name, entry in self._seeds.items() if after.get(name) != entry]
        wanted = {after[name][1] for name in names if name in after}
        self._measure(wanted)
        found: list[Change] = []
        for name in names:
            entry, target = after.get(name), ""
            if entry and entry[0] == LINK:
                data = self.git.run("cat-file", "blob", entry[1])
                target = os.fsdecode(data) if len(data) <= TARGET_BYTES else ""
            found.append(Change(name=name, before=self._seeds[name], after=entry, target=target))
        return found

    def content(self, entry: Entry) -> bytes:
        """Return what an entry of a change would hold."""
        return self.git.run("cat-file", "blob", entry[1])

    def tree(self, commit: str, changes: Iterable[Change], git: Git | None = None) -> str:
        """Return a commit's tree with the changes in it."""
        git = git or self.git
        after = [(change.name, change.after) for change in changes]
        nothing = "0" * len(commit)
        gone = [f"0 {nothing}\t{name}" for name, entry in after if entry is None]
        lines = [f"{entry[0]} {entry[1]} 0\t{name}" for name, entry in after if entry]
        git.run("read-tree", commit)
        git.run("update-index", "-z", "--index-info", data=joined([*gone, *lines]))
        return git.run("write-tree", "--missing-ok").decode().strip()

    def write_tree(self, commit: str, changes: Iterable[Change], objects: str) -> tuple[Git, str]:
        """Do so once more and leave the objects in a person's repository.

        Returns git with that as its place for objects, and the tree.
        """
        git = Git("/", **{**self.git.env, "GIT_OBJECT_DIRECTORY": objects})
        if self._apply(git).returncode:
            raise PatchConflict("the repository changed meanwhile", hint="repeat it")
        return git, self.tree(commit, changes, git)

    def _measure(self, oids: Iterable[str]) -> None:
        asked = "".join(f"{oid}\n" for oid in oids).encode()
        said = self.git.run("cat-file", "--batch-check=%(objecttype) %(objectsize)", data=asked)
        sizes = [int(line.split()[1]) for line in said.decode().splitlines() if line[:4] == "blob"]
        if sum(sizes) > RESULT_BYTES or max(sizes, default=0) > FILE_BYTES:
            raise PatchRefused("the patch makes files that are too long")

    def _entries(self) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for line in os.fsdecode(self.git.run("ls-files", "--stage", "-z")).split("\0")[:-1]:
            words, _, name = line.partition("\t")
            mode, oid, _stage = words.split()
            entries[name] = (mode, oid)
        return entries


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


_REASONS = (
    (b": already exists", "it is there already"),
    (b": does not exist", "it is not there"),
    (b": patch does not apply", "its lines are others here"),
    (b": ", "it does not fit"),
)


def _conflicts(said: bytes, names: Iterable[str]) -> dict[str, str]:
    """Return the names that git complains of; why in our words, since its own repeat the patch's."""
    found: dict[str, str] = {}
    for name in names:
        for words, why in _REASONS:
            if b"error: " + os.fsencode(name) + words in said:
                found[name] = why
                break
        else:
            if b"'" + os.fsencode(name) + b"'" in said:
                found[name] = "it does not fit"
    return found
