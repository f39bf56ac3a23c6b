"""A task's own copy of its directory: where it lies, how it is made, what differs in the end.

Plans both steps for the shim and reads what they said; the work itself is `cmesh.runner.tree`,
in a sandbox. Nothing here runs a program or reads what an agent wrote.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from cmesh.beneath import Judged, open_beneath, open_judged
from cmesh.errors import SandboxUnavailable
from cmesh.model import Changes
from cmesh.runner import tree
from cmesh.sandbox.plan import find_program, interpreter, plan
from cmesh.sandbox.profile import MIB, Objects, Parts, SandboxSpec
from cmesh.sandbox.tier import Enforcement

__all__ = [
    "COPY_FILES",
    "COPY_LIMIT_S",
    "COPY_MOST_BYTES",
    "PATCH_BYTES",
    "PATCH_LIMIT_S",
    "Base",
    "Changed",
    "Copy",
    "Earlier",
    "Made",
    "Start",
    "bundle_path",
    "changes_path",
    "earlier_path",
    "find_git",
    "patch_path",
    "read_changed",
    "read_made",
]

COPY_LIMIT_S = 300.0
"""Within which a directory is copied; it is not part of a task's own time."""

COPY_MOST_BYTES, COPY_FILES = 4096 * MIB, 200_000

PATCH_LIMIT_S = 120.0
PATCH_BYTES = 64 * MIB
"""A longer patch is not kept: its task's result says how the copy differs, and no more."""

FILE_BYTES = 64 * MIB
"""A longer file that is new or changed is left out of a patch: git holds it in memory, and whoever
applies a patch reads no longer one either."""

ANSWER_BYTES = 4 * MIB

_OBJECTS = ".git/objects"
_PLACE = "/run/cmesh/objects"
"""Where a task sees the objects of the source: its own name is the copy's."""


Base = Literal["head", "working-tree", "changes"]


@parsed(frozen=True, slots=True, kw_only=True)
class Made:
    """What a copy was made of.

    Attributes:
        commit: the source's current one; empty = it has none, or is no repository.
        tree: git's name for the content that was copied.
        dirty: the source differs from the commit, by its bytes.
        base: `head` = the copy is the commit, `working-tree` = the source as it is, `changes` =
            the commit with what the caller sent.
        left_out: some of the names that were not copied: other repositories, special files.
    """

    commit: str
    tree: str
    dirty: bool
    files: int
    bytes: int
    left_out: list[str]
    left_out_count: int
    base: Base = "working-tree"


@parsed(frozen=True, slots=True, kw_only=True)
class Changed:
    """How a copy differs from what it was made of.

    Attributes:
        tree: git's name for its content.
        bytes: of the patch; more than `PATCH_BYTES` = there is none.
        files: changed paths; `changed` holds some, each after a letter (A, D, M, T).
        flagged: those that run or instruct by being there.
        left_out: as `Made`.
    """

    tree: str
    bytes: int
    files: int
    changed: list[str]
    flagged: list[str]
    flagged_count: int
    left_out: list[str]
    left_out_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What the turn before has made, where a follow-up turn goes on.

    Attributes:
        commit, tree: what its copy was made of, as its result names them.
        patched: it has changed something; the patch is to be there by `earlier_path`.
    """

    commit: str
    tree: str
    patched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a copy holds when its task begins.

    Attributes:
        base: what of the source, where that is a repository with a commit.
        changes: of the caller, in the place of `base`; to be there by `changes_path`.
        bundle: the commit that they are made on comes with them, by `bundle_path` likewise.
        earlier: where it goes on; None = it is a first turn.
    """

    base: Base = "head"
    changes: Changes | None = None
    bundle: bool = False
    earlier: Earlier | None = None

    def order(self, task: Path) -> Mapping[str, object]:
        """Return what the program is told of it, for the task in a directory."""
        changes, before = self.changes, self.earlier
        earlier = before and {
            "commit": before.commit,
            "tree": before.tree,
            "patch": str(earlier_path(task)) if before.patched else "",
        }
        return {
            "from": "changes" if changes else self.base,
            "changes": str(changes_path(task)) if changes else "",
            "commit": changes.commit if changes else "",
            "bundle": str(bundle_path(task)) if self.bundle else "",
            "earlier": earlier,
        }


_MADE: TypeAdapter[Made] = TypeAdapter(Made)
_CHANGED: TypeAdapter[Changed] = TypeAdapter(Changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """The copy of one task.

    Attributes:
        task: the task's directory.
        source: the directory that policy allowed, links resolved.
        judged: that directory itself.
        found: what holds the task.
        hidden: directories that no task may see.
        parts: what is copied, and has to be there in the end.
        start: what it holds when its task begins.
        binds: folders of the source that git ignores and that are shown beside the copy; those
            that are there.
    """

    task: Path
    source: str
    judged: Judged
    found: Enforcement
    hidden: Sequence[str]
    parts: Parts
    start: Start = Start()
    binds: Sequence[str] = ()

    @property
    def path(self) -> str:
        """Return where the copy lies."""
        return f"{self.task}/copy"

    @property
    def place(self) -> str:
        """Return where its task sees it: under the source's name, where there are mounts."""
        return self.source if self._mounts else self.path

    def objects(self) -> Objects | None:
        """Return what the copy borrows of the source; None = that is no repository of its own.

        A linked work tree and a submodule are none: their `.git` is a file that leads elsewhere.

        Raises:
            OSError: the source is not there, or is another directory now.
        """
        fd = open_judged(self.judged)
        try:
            os.close(open_beneath(fd, _OBJECTS))
        except OSError:
            return None
        finally:
            os.close(fd)
        place = _PLACE if self._mounts else f"{self.source}/{_OBJECTS}"
        return Objects(judged=self.judged, below=_OBJECTS, place=place)

    def lay_out(self) -> None:
        """Make the directories of the copy and of the steps, private to this user."""
        for path in (self.task, *(self.task / name for name in _DIRECTORIES)):
            path.mkdir(mode=0o700, exist_ok=True)

    def steps(
        self, objects: Objects | None, limits: Mapping[str, int]
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Return the launch records that make the copy, and compare it.

        Raises:
            SandboxUnavailable: git is missing, or nothing here can hold it.
        """
        source = self._step(
            {"do": "make", "source": self.source, "copy": self.path},
            COPY_LIMIT_S,
            self._spec(self.source, objects, limits, write=(f"{self.task}/git", self.path)),
        )
        spec = self._spec(self.place, objects, limits, write=(f"{self.task}/git",), copy=self.path)
        after = self._step({"do": "compare", "copy": self.place}, PATCH_LIMIT_S, spec)
        return {**source, "judged": self.judged}, after

    @property
    def _mounts(self) -> bool:
        return self.found.bwrap and self.found.netns

    def _spec(
        self,
        directory: str,
        objects: Objects | None,
        limits: Mapping[str, int],
        *,
        write: tuple[str, ...],
        copy: str = "",
    ) -> SandboxSpec:
        return SandboxSpec(
            directory=directory,
            writes_directory=False,
            home=f"{self.task}/git/home",
            tmp=f"{self.task}/git/tmp",
            write=write,
            read=(*interpreter().needs, _PROGRAM),
            hidden=tuple(self.hidden),
            limits=limits,
            copy=copy,
            objects=objects,
            own_program=True,
        )

    def _step(
        self, order: Mapping[str, object], limit_s: float, spec: SandboxSpec
    ) -> dict[str, object]:
        order = {
            **order,
            "program": find_git(),
            "home": spec.home,
            "tmp": spec.tmp,
            "base": f"{self.task}/git/base",
            "objects": spec.objects.place if spec.objects else "",
            "patch": str(patch_path(self.task)),
            "limit": PATCH_BYTES,
            "bytes": COPY_MOST_BYTES,
            "files": COPY_FILES,
            "file_bytes": FILE_BYTES,
            "parts": self.parts.read,
            "wanted": (*self.parts.read, *self.parts.write),
            **self.start.order(self.task),
            "binds": tuple(self.binds),
        }
        argv = [interpreter().program, "-I", "-S", tree.__file__, json.dumps(order)]
        return {
            "argv": argv,
            "cwd": spec.directory,
            "env": {},
            "sandbox": plan(spec, self.found),
            "limit_s": limit_s,
        }


_DIRECTORIES = ("copy", "git", "git/home", "git/tmp")
_PROGRAM = str(Path(tree.__file__).parent)
"""What the steps load besides the interpreter: no secret is among cmesh's own code."""


def find_git() -> str:
    """Return git's absolute path.

    Raises:
        SandboxUnavailable: it is not in the system's directories.
    """
    found = find_program("git")
    if not found:
        raise SandboxUnavailable(
            "git makes the copy that a task of this profile works on, and is not installed",
            hint="install git (`apt-get install git`)",
        )
    return found


def patch_path(task: Path) -> Path:
    """Return where the patch of a task is written."""
    return task / "git" / "patch"


def changes_path(task: Path) -> Path:
    """Return where what the caller of a task has sent is put."""
    return task / "git" / "changes"


def bundle_path(task: Path) -> Path:
    """Return where the commits that its caller has sent are put."""
    return task / "git" / "bundle"


def earlier_path(task: Path) -> Path:
    """Return where the patch of the turn before a task is put."""
    return task / "git" / "earlier"


def read_made(task: Path) -> Made | None:
    """Return what a task's copy was made of; None = nobody can tell. Blocks on the disk."""
    try:
        return _MADE.validate_json(_read(task / "before"))
    except (OSError, ValidationError):
        return None


def read_changed(task: Path) -> Changed | None:
    """Return how a task's copy differs in the end; as `read_made`."""
    try:
        return _CHANGED.validate_json(_read(task / "after"))
    except (OSError, ValidationError):
        return None


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(ANSWER_BYTES)
