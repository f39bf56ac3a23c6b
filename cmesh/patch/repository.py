"""A person's repository, looked at: where it is, where it stands, what it tracks, what is there.

Reads only. Git runs nothing here that the repository has configured, and files are read by the
descriptor of a folder that was reached over no link.
"""

import errno
import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cmesh.beneath import open_root
from cmesh.errors import UsageError, WrongBase
from cmesh.patch.git import Git
from cmesh.patch.judge import APPLYING, Base, Entry
from cmesh.patch.own import require_own
from cmesh.runner.tree import FILE, LINK, PROGRAM

__all__ = ["FILE_BYTES", "Found", "Repository", "stamp_of"]

FILE_BYTES = 64 * 1024 * 1024
"""A longer file is not read: no patch of a worker changes one."""

PLACE = "cmesh-apply"
"""It is there while an apply is at work, and when one was cut off."""

FOLDER = "it is a folder here"

_CLONE = "name a clone of the task's repository with -C DIR"
_MAKE_ONE = (
    "where the task's files are, `git init`, `git add --all` and `git commit` make one; or save it"
    " with `cmesh result ID --patch FILE`, read it, and `git apply FILE` there"
)

_OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_UNMERGED: Entry = ("", "unmerged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is under a name in a work tree.

    Attributes:
        mode: as git writes it; empty = nothing is there.
        data: the content of a file, the target of a link.
        stamp: changes when somebody else writes to it: device, inode, size, time, mode.
        odd: why it cannot be patched, whatever the patch says; in our own words.
    """

    mode: str = ""
    data: bytes = b""
    stamp: tuple[int, ...] = ()
    odd: str = ""


class Repository:
    """One repository and one work tree of it.

    Attributes:
        root: the top of the work tree, absolute, without links.
        directory: git's own directory for this work tree, absolute.
        objects: where its objects are.
        kind: of its hashes, `sha1` or `sha256`.
        prefix: the asked directory below `root`, with `/` at its end; empty = the top.
        git: runs there.
    """

    def __init__(self, directory: str, *, based: bool = True) -> None:
        """Find the repository that a directory is in. Blocks.

        Args:
            directory: any in a work tree.
            based: the patch that this is about was made of a commit; for the hint.

        Raises:
            UsageError: there is no such directory.
            WrongBase: it is in no repository, or in one without a work tree of its own.
        """
        real = os.path.realpath(directory)
        if not os.path.isdir(real):
            raise UsageError(f"`{directory}` is no directory", hint="name one with -C DIR")
        git = Git(real)
        root = git.line("rev-parse", "--show-toplevel")
        self.root = os.path.realpath(root) if root else ""
        # `core.worktree` may name any place as the tree of a repository.
        if not root or not f"{real}/".startswith(f"{self.root.rstrip('/')}/"):
            raise WrongBase(
                f"`{directory}` is not in the work tree of a git repository",
                hint=_CLONE if based else _MAKE_ONE,
            )
        self.directory = git.line("rev-parse", "--absolute-git-dir")
        # INVARIANT: what is read and written is below a directory whose own repository this is. A
        # setting alone, which any repository can bring along, makes nothing else its tree.
        inside = Git(self.root).line("rev-parse", "--absolute-git-dir")
        if not os.path.lexists(os.path.join(self.root, ".git")) or inside != self.directory:
            raise WrongBase(
                f"the repository of `{directory}` has its work tree elsewhere, by `core.worktree`",
                hint="`git config --unset core.worktree` there, or name another clone with -C DIR",
            )
        require_own(self.root, self.directory)
        objects = git.line("rev-parse", "--git-path", "objects")
        self.objects = os.path.realpath(os.path.join(real, objects))
        self.kind = git.line("rev-parse", "--show-object-format") or "sha1"
        self.prefix = real[len(self.root.rstrip("/")) + 1 :] + "/" if real != self.root else ""
        self.git = Git(self.root, GIT_DIR=self.directory, GIT_WORK_TREE=self.root)

    @property
    def place(self) -> Path:
        """Return the folder of an apply: with git's own, or, on another disk, in the tree."""
        # A rename reaches no further than its file system.
        same = os.stat(self.directory).st_dev == os.stat(self.root).st_dev
        return Path(self.directory, PLACE) if same else Path(self.root, APPLYING)

    @cached_property
    def head(self) -> str:
        """Return the current commit; empty = there is none."""
        return self.git.line("rev-parse", "--verify", "--quiet", "HEAD^{commit}")

    def base(self, commit: str) -> Base:
        """Say how the tree stands to a commit that a patch names."""
        base = Base(commit=commit, head=self.head, relation="unknown")
        if not commit:
            return base
        # INVARIANT: another machine's word, and git would take it for an option or a revision.
        known = _OBJECT.fullmatch(commit) and self.git.line(
            "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"
        )
        if not known:
            return Base(commit=commit, head=self.head, relation="missing")
        if not self.head:
            return base
        counts = self.git.line("rev-list", "--left-right", "--count", f"{commit}...{self.head}")
        behind, ahead = (int(one) for one in counts.split()) if counts else (0, 0)
        relation = {(False, False): "same", (False, True): "ahead", (True, False): "behind"}
        return Base(
            commit=commit, head=self.head, ahead=ahead, behind=behind,
            relation=relation.get((behind > 0, ahead > 0), "diverged"),  # type: ignore[arg-type]
        )  # fmt: skip

    @cached_property
    def tracked(self) -> Mapping[str, Entry]:
        """Return what the index names; an unmerged name has an entry like no other."""
        found: dict[str, Entry] = {}
        for line in _lines(self.git.run("ls-files", "--stage", "-z")):
            words, _, name = line.partition("\t")
            mode, oid, stage = words.split()
            found[name] = (mode, oid) if stage == "0" else _UNMERGED
        return found

    def tree(self, commit: str) -> Mapping[str, Entry]:
        """Return what a commit names."""
        found: dict[str, Entry] = {}
        if commit:
            for line in _lines(self.git.run("ls-tree", "-r", "-z", "--full-tree", commit)):
                words, _, name = line.partition("\t")
                mode, _kind, oid = words.split()
                found[name] = (mode, oid)
        return found

    def modified(self) -> set[str]:
        """Return the names that git calls changed since the index, by time and size at first.

        So are those that it was told not to look at: what they hold is as uncommitted as any.
        """
        done = self.git.result(
            "diff-files", "--name-only", "-z", "--ignore-submodules=all", "--no-ext-diff",
            more=self._no_filters(),
        )  # fmt: skip
        # `S` is skip-worktree, a small letter assume-unchanged (git-ls-files(1), -v).
        marked = [line.partition(" ") for line in _lines(self.git.run("ls-files", "-v", "-z"))]
        unseen = {name for tag, _, name in marked if tag == "S" or tag.islower()}
        return unseen | set(_lines(done.stdout))

    def _no_filters(self) -> Mapping[str, str]:
        """Return settings that keep every configured filter from being run."""
        listed = self.git.run(
            "config", "--name-only", "-z", "--get-regexp", r"^filter\.", nothing=1
        )
        found: dict[str, str] = {}
        for at, key in enumerate(keys := sorted(set(_lines(listed)))):
            found |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": ""}
            if key.endswith(".required"):
                found[f"GIT_CONFIG_VALUE_{at}"] = "false"
        return {**found, "GIT_CONFIG_COUNT": str(len(keys))}

    def look(self, names: Collection[str]) -> dict[str, Found]:
        """Return what is under names that were judged, as bytes."""
        named, folders = set(names), {up for name in names for up in _above(name)}
        others = {up for up in folders if os.path.lexists(os.path.join(self.root, up, ".git"))}
        found: dict[str, Found] = {}
        for name in names:
            above = set(_above(name))
            if above & others:
                found[name] = Found(odd="a part of its path is another repository here")
                continue
            found[name] = self._look(name, replaces=bool(named & above), is_folder=name in folders)
        return found

    def _look(self, name: str, *, replaces: bool, is_folder: bool) -> Found:
        """Look at one name; `replaces`, `is_folder`: the patch may turn a file into a folder here.

        Or the other way round.
        """
        folder, last = os.path.split(name)
        try:
            fd = open_root(os.path.join(self.root, folder) if folder else self.root)
        except FileNotFoundError:
            return Found()
        except OSError as error:
            if replaces and error.errno == errno.ENOTDIR:
                return Found()
            return Found(odd="a part of its path is a link or no folder here")
        try:
            found = _read(fd, last)
        except FileNotFoundError:
            return Found()
        except OSError as error:
            return Found(odd=f"it cannot be read: {error.strerror}")
        finally:
            os.close(fd)
        return Found() if is_folder and found.odd == FOLDER else found


def stamp_of(info: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from itself once somebody has written to it."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_mode


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:at]) for at in range(1, len(parts))]


def _read(folder: int, name: str) -> Found:
    """Return what is under a name in an open folder; raises OSError. Follows no link."""
    info = os.lstat(name, dir_fd=folder)
    stamp = stamp_of(info)
    if stat.S_ISLNK(info.st_mode):
        return Found(mode=LINK, data=os.fsencode(os.readlink(name, dir_fd=folder)), stamp=stamp)
    if not stat.S_ISREG(info.st_mode):
        return Found(odd=FOLDER if stat.S_ISDIR(info.st_mode) else "it is no file here")
    if info.st_size > FILE_BYTES:
        return Found(odd="it is too long here")
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(fd, "rb") as file:
        data = file.read(FILE_BYTES + 1)
    return Found(mode=PROGRAM if info.st_mode & stat.S_IXUSR else FILE, data=data, stamp=stamp)


def _lines(data: bytes) -> list[str]:
    return os.fsdecode(data).split("\0")[:-1]
