"""The directories that rules name, each held open since the rules were read.

A task's directory is opened beneath its root first and judged by the name the kernel then gives
it, so that a link that is swapped meanwhile changes nothing. Decides nothing about a task.
"""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cmesh.beneath import Judged, identity, open_beneath, open_root
from cmesh.errors import CmeshError, TaskRefused
from cmesh.platform.files import real_name
from cmesh.policy.match import is_at_or_below
from cmesh.policy.rules import Policy

__all__ = ["Found", "Roots", "real_path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a task would run.

    Attributes:
        path: what policy is asked about: the directory's name without links.
        judged: the directory itself, for whoever starts the task; None = it has none.
        obstacle: why it cannot be had, for the caller once policy allows it.
    """

    path: str
    judged: Judged | None = None
    obstacle: CmeshError | None = None


class Roots:
    """Opens directories below the roots of the rules in force."""

    def __init__(self, policy: Policy) -> None:
        self._roots: dict[str, _Root] = {}
        self.read(policy)

    def read(self, policy: Policy) -> None:
        """Open the roots of these rules anew and let the others go. Blocks on the disk."""
        allow = [rule for rule in policy.inbound if rule.effect == "allow"]
        # A look-up in a thread may still use an old one, which is closed when nobody does.
        self._roots = {path: _Root(path) for rule in allow for path in rule.paths}

    def find(self, directory: str) -> Found:
        """Look where a task would run. Blocks on the disk.

        Outside of every root nothing is opened: policy says no to that by its name alone.
        """
        path = real_path(directory)
        around = [root for root in self._roots if is_at_or_below(path, (root,))]
        if not around:
            return Found(path=path)
        root = self._living(max(around, key=len))
        try:
            return _look(root, path)
        except OSError as error:
            moved = error.errno == errno.ESTALE or root.is_another_now()
            return Found(path=path, obstacle=_refusal(directory, moved=moved))

    def _living(self, path: str) -> "_Root":
        """Return a root; one that was not there, or was deleted, is looked for again."""
        root = self._roots[path]
        if root.is_gone():
            root = self._roots[path] = _Root(path)
        return root


class _Root:
    """One root, held by `fd`; -1 = it is not there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        with suppress(OSError):
            self.fd = open_root(path)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def is_gone(self) -> bool:
        return self.fd < 0 or os.fstat(self.fd).st_nlink == 0

    def is_another_now(self) -> bool:
        """Say whether its name leads to another directory than the one that is held."""
        now = _Root(self.path)
        return self.fd >= 0 <= now.fd and identity(self.fd) != identity(now.fd)


def real_path(path: str) -> str:
    """Return where a directory really is, links resolved; need not exist. Blocks on disk.

    What is no absolute path is returned as it is, for policy to refuse: where this
    process happens to stand means nothing to the peer.
    """
    return real_name(path)


def _look(root: _Root, path: str) -> Found:
    fd = open_beneath(root.fd, _from(root.path, path))
    try:
        # INVARIANT: judged is the name that the kernel has for what is open, never the asked one.
        name = str(Path(f"/proc/self/fd/{fd}").readlink())
        if not is_at_or_below(name, (root.path,)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)  # the root was moved
        return Found(path=name, judged=(root.path, _from(root.path, name), *identity(fd)))
    finally:
        os.close(fd)


def _from(root: str, path: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _refusal(directory: str, *, moved: bool) -> TaskRefused:
    if not moved:
        return TaskRefused(f"`{directory}` is no directory on the worker", hint="")
    return TaskRefused(
        f"`{directory}` is not where it was when the worker read its rules",
        hint="its owner can let the rules be read again: `touch config.toml` there",
    )
