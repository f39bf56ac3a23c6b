"""What a task's directory was before its agent began: commit and branch, or what lay in it.

Read from files alone, beneath the directory that was judged: no git runs on what an agent may have
written. Noted in the task's own directory, since another life of the daemon may tell the end.
"""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cmesh.beneath import Judged, open_file, open_judged, open_part
from cmesh.clock import Clock
from cmesh.runner.listing import Changes, Listing, compare, take
from cmesh.runner.task_files import replace

__all__ = ["Head", "Noted", "changes", "note_before", "noted_before", "read_head"]

_FILE = "before.json"
_NOTE_BYTES = 32 * 1024 * 1024
_REF_BYTES, _PACKED_BYTES = 4_096, 8 * 1024 * 1024
_COMMIT = re.compile("[0-9a-f]{40}(?:[0-9a-f]{24})?")
_IN_TABLES = "refs/heads/.invalid"
_HEADS = "refs/heads/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a repository stood.

    Attributes:
        commit: empty = its branch has none yet, or `reason` says why it is not known.
        branch: without `refs/heads/`; empty = none is checked out.
    """

    commit: str = ""
    branch: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What was noted.

    Attributes:
        judged: the directory.
        head: None = it is no repository of its own.
        listing: None = nothing was listed: it is a repository, or the task cannot write there.
    """

    judged: Judged
    head: Head | None = None
    listing: Listing | None = None


_NOTED: TypeAdapter[Noted] = TypeAdapter(Noted)


def note_before(
    task: Path,
    judged: Judged,
    clock: Clock,
    *,
    listed: bool,
    skip: Collection[tuple[int, int]] = (),
) -> None:
    """Write down what a directory is now; once, as the start of a task may be tried again.

    `listed`: with what lies in it, where it is no repository. Not durable. Blocks on the disk.

    Raises:
        OSError: the directory is another one now, or the disk refuses.
    """
    if (task / _FILE).exists():
        return
    root = open_judged(judged)
    try:
        head = read_head(root)
        plain = head is None or bool(head.reason and not head.commit and not head.branch)
        listing = take(root, clock, skip) if listed and plain else None
    finally:
        os.close(root)
    noted = Noted(judged=judged, head=head, listing=listing)
    replace(task / _FILE, json.dumps(asdict(noted)).encode())


def noted_before(task: Path) -> Noted | None:
    """Return what was noted for a task; None = nothing, as by an older version."""
    try:
        with (task / _FILE).open("rb") as file:
            return _NOTED.validate_json(file.read(_NOTE_BYTES))
    except (OSError, ValidationError):
        return None


def changes(noted: Noted, clock: Clock, skip: Collection[tuple[int, int]] = ()) -> Changes | None:
    """Return what differs from what was listed; None = nothing was. Blocks on the disk."""
    if noted.listing is None:
        return None
    try:
        root = open_judged(noted.judged)
    except OSError as error:
        gone = "it is another directory now" if error.errno == errno.ESTALE else error.strerror
        return Changes(reason=f"the directory cannot be compared: {gone}")
    try:
        return compare(root, noted.listing, clock, skip)
    finally:
        os.close(root)


def read_head(root: int) -> Head | None:
    """Return the commit and branch of the repository in an open directory; None = there is none.

    Raises:
        OSError: never for what lies in it; the descriptor is bad.
    """
    try:
        git = open_part(root, ".git")
    except FileNotFoundError:
        return None
    except OSError:
        return Head(reason="its `.git` is no folder of its own: not read")
    try:
        if not stat.S_ISDIR(os.fstat(git).st_mode):
            return Head(reason="its `.git` is a file that names another place: not read")
        return _head(git)
    finally:
        os.close(git)


def _head(git: int) -> Head:
    try:
        pointer = _read(git, "HEAD", _REF_BYTES).strip()
    except OSError as error:
        return Head(reason=f"its HEAD cannot be read: {error.strerror}")
    if _COMMIT.fullmatch(pointer):
        return Head(commit=pointer)
    ref = pointer.removeprefix("ref:").strip()
    if ref == _IN_TABLES:
        return Head(reason="its refs are kept in tables, which are not read")
    if not pointer.startswith("ref:") or not ref.startswith("refs/"):
        return Head(reason="its HEAD names no branch and no commit")
    branch = ref.removeprefix(_HEADS)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            commit = _read(git, ref, _REF_BYTES).strip()
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                raise
            return Head(branch=branch, reason=f"its branch cannot be read: {error.strerror}")
        if _COMMIT.fullmatch(commit):
            return Head(commit=commit, branch=branch)
        return Head(branch=branch, reason="its branch names no commit")
    return _packed(git, ref, branch)


def _packed(git: int, ref: str, branch: str) -> Head:
    try:
        lines = _read(git, "packed-refs", _PACKED_BYTES).splitlines()
    except FileNotFoundError:
        return Head(branch=branch)
    except OSError as error:
        return Head(branch=branch, reason=f"its refs cannot be read: {error.strerror}")
    for line in lines:
        commit, _, name = line.partition(" ")
        if name == ref and _COMMIT.fullmatch(commit):
            return Head(commit=commit, branch=branch)
    return Head(branch=branch)


def _read(git: int, name: str, most: int) -> str:
    with os.fdopen(open_file(git, name), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", name)
    return data.decode("utf-8", "replace")
