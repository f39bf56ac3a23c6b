"""Puts a patch's result into a work tree: all of it or, also after a crash, none of it.

New contents and links to the old ones lie in a private folder first, with a plan beside them;
then each path changes by one rename. A run that was cut off is taken back by the next.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from cmesh.beneath import open_root
from cmesh.errors import PatchConflict
from cmesh.patch.judge import Change, name_trouble
from cmesh.patch.look import Look
from cmesh.patch.repository import Found, Repository, stamp_of
from cmesh.patch.trial import Trial
from cmesh.platform import locks
from cmesh.runner.tree import LINK, PROGRAM
from cmesh.runner.tree_git import Trouble, read_file

__all__ = ["put", "take_back"]

PLAN = "plan.json"
PLAN_BYTES = 64 * 1024 * 1024
"""A longer one is not read: one of ours has the paths of a patch, and that is shorter."""

_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS}


@parsed(frozen=True, slots=True, kw_only=True)
class _Step:
    """One path: the names of its old and its new content in the folder, empty = none.

    Attributes:
        path: its bytes, one character each.
        was: the stamp of the old content; `is_` that of the new one.
    """

    path: str
    old: Annotated[str, Field(pattern=r"^(old-[0-9]+)?$")]
    new: Annotated[str, Field(pattern=r"^(new-[0-9]+)?$")]
    was: tuple[int, ...]
    is_: tuple[int, ...]

    @property
    def name(self) -> str:
        return _name(self.path)


@parsed(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a run does; `made` are the folders it makes, as `path` of a step."""

    steps: list[_Step]
    made: list[str]


_PLAN = TypeAdapter(_Plan)


def put(look: Look) -> None:
    """Change the work tree as a look said. Blocks.

    Raises:
        PatchConflict: somebody else changed a path since, or a path cannot be written; nothing
            is changed then.
    """
    assert look.trial is not None
    repository = look.repository
    with _alone(repository):
        place = repository.place
        try:
            place.mkdir(0o700)
        except OSError as error:
            raise PatchConflict(f"nothing was changed: {error.strerror}") from error
        try:
            # Where it lies in the tree, nothing of it becomes tracked meanwhile.
            (place / ".gitignore").write_bytes(b"*\n")
            steps = [
                _stage(place, repository.root, look.found[change.name], change, at, look.trial)
                for at, change in enumerate(look.changes)
            ]
            plan = _Plan(steps=steps, made=_missing(repository.root, steps))
            _write_plan(place, plan)
            try:
                _go(repository.root, place, steps)
            except BaseException as error:
                # Ctrl-C too: what was begun is not left for the next run to find.
                _undo(repository.root, place, plan)
                (place / PLAN).unlink()
                if not isinstance(error, OSError):
                    raise
                why = error.strerror or "it cannot be written"
                told = f"nothing was changed: a path cannot be written: {why}"
                raise PatchConflict(told) from error
            (place / PLAN).unlink()
        except OSError as error:
            raise PatchConflict(f"nothing was changed: {error.strerror}") from error
        finally:
            # With a plan in it, it could not be taken back: the next run says so again.
            if not (place / PLAN).exists():
                shutil.rmtree(place, ignore_errors=True)


def take_back(repository: Repository) -> bool:
    """Undo what a run that was cut off has done; say whether there was one. Blocks.

    Raises:
        PatchConflict: another run is at it, or a path was changed since; says where its old
            content is.
    """
    with _alone(repository):
        place = repository.place
        if not os.path.lexists(place):
            return False
        if not stat.S_ISDIR(place.lstat().st_mode):
            raise PatchConflict(f"`{place}` is no folder of an apply", hint="look into it")
        if os.path.lexists(place / PLAN):
            plan = _read_plan(place)
            _undo(repository.root, place, plan)
            (place / PLAN).unlink()
        shutil.rmtree(place)
        return True


def _read_plan(place: Path) -> _Plan:
    """Return the plan of a run that was cut off; it may be somebody else's work."""
    try:
        plan = _PLAN.validate_json(read_file(str(place / PLAN), PLAN_BYTES))
    except (OSError, Trouble, ValidationError) as error:
        raise PatchConflict(f"`{place}` cannot be read", hint="look into it") from error
    names = [*(step.name for step in plan.steps), *(_name(path) for path in plan.made)]
    # INVARIANT: a repository can come from anywhere, and a planted plan leads nowhere else.
    if any(name_trouble(name) for name in names):
        raise PatchConflict(f"`{place}` is no plan of an apply", hint="look into it")
    return plan


def _name(path: str) -> str:
    return os.fsdecode(path.encode("latin-1"))


def _path(name: str) -> str:
    return os.fsencode(name).decode("latin-1")


@contextlib.contextmanager
def _alone(repository: Repository) -> Generator[None]:
    """Keep other runs in this work tree away; ends with the process, however that ends."""
    fd = os.open(repository.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            locks.lock(fd)
        except BlockingIOError as error:
            raise PatchConflict(
                "another `cmesh apply` is at work in this tree", hint="repeat it"
            ) from error
        yield
    finally:
        os.close(fd)


def _stage(place: Path, root: str, found: Found, change: Change, at: int, trial: Trial) -> _Step:
    """Write the new content of a path and keep the old one, in `place`."""
    old, new = f"old-{at}" if found.mode else "", f"new-{at}" if change.after else ""
    is_: tuple[int, ...] = ()
    if change.after is not None:
        target = place / new
        if change.after[0] == LINK:
            os.symlink(change.target, target)
        else:
            is_program = change.after[0] == PROGRAM
            _write(target, trial.content(change.after), found, is_program=is_program)
        is_ = stamp_of(os.lstat(target))
    if old:
        with _folder(root, change.name) as (fd, last):
            if stamp_of(os.lstat(last, dir_fd=fd)) != found.stamp:
                raise PatchConflict("somebody changed a path meanwhile", hint="repeat it")
            try:
                os.link(last, place / old, src_dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS or found.mode == LINK:
                    raise
                _write(place / old, found.data, found, is_program=found.mode == PROGRAM)
    return _Step(path=_path(change.name), old=old, new=new, was=found.stamp, is_=is_)


def _write(place: Path, data: bytes, found: Found, *, is_program: bool) -> None:
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if is_program else 0o666)
    with open(fd, "wb") as file:
        file.write(data)
        if found.stamp and stat.S_ISREG(found.stamp[-1]):
            mode = stat.S_IMODE(found.stamp[-1]) & 0o777
            os.fchmod(fd, mode | ((mode & 0o444) >> 2) if is_program else mode & ~0o111)
        file.flush()
        os.fsync(fd)


def _missing(root: str, steps: Iterable[_Step]) -> list[str]:
    """Return the folders that are to be made, each after the one it is in."""
    found: dict[str, None] = {}
    for step in steps:
        parts = step.name.split("/")[:-1] if step.new else []
        for at in range(1, len(parts) + 1):
            folder = "/".join(parts[:at])
            # A file that gives way to a folder is one of the steps.
            if not os.path.isdir(os.path.join(root, folder)):
                found[_path(folder)] = None
    return list(found)


def _write_plan(place: Path, plan: _Plan) -> None:
    with (place / "plan").open("xb") as file:
        file.write(_PLAN.dump_json(plan))
        file.flush()
        os.fsync(file.fileno())
    (place / "plan").rename(place / PLAN)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _go(root: str, place: Path, steps: Iterable[_Step]) -> None:
    """Change each path; what goes first makes room for what comes.

    Raises:
        OSError: a path cannot be changed, or is not as it was looked at (ESTALE).
    """
    for step in steps:
        if not step.new:
            with _folder(root, step.name) as (fd, last):
                _require_same(fd, last, step)
                os.unlink(last, dir_fd=fd)
            _remove_empty(root, os.path.dirname(step.name))
    for step in steps:
        if step.new:
            with _folder(root, step.name, make=True) as (fd, last):
                if step.old:
                    _require_same(fd, last, step)
                    os.rename(place / step.new, last, dst_dir_fd=fd)
                else:
                    _add(place / step.new, fd, last)


def _require_same(fd: int, last: str, step: _Step) -> None:
    if stamp_of(os.lstat(last, dir_fd=fd)) != step.was:
        raise OSError(errno.ESTALE, "somebody changed it meanwhile")


def _add(new: Path, fd: int, last: str) -> None:
    """Put a file where there is none; one that somebody has made meanwhile stays (EEXIST)."""
    try:
        os.link(new, last, dst_dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with contextlib.suppress(FileNotFoundError):
            os.lstat(last, dir_fd=fd)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(new, last, dst_dir_fd=fd)
    else:
        new.unlink()


def _undo(root: str, place: Path, plan: _Plan) -> None:
    """Put back what was there, in the reverse order; may be repeated.

    Raises:
        PatchConflict: somebody has changed a path since; the others are put back.
    """
    others = 0
    for step in reversed(plan.steps):
        if step.new:
            others += not _unput(root, place, step)
    for path in reversed(plan.made):
        with contextlib.suppress(OSError), _folder(root, _name(path)) as (fd, last):
            os.rmdir(last, dir_fd=fd)
    for step in plan.steps:
        if not step.new:
            others += not _unput(root, place, step)
    if others:
        raise PatchConflict(
            f"an apply was cut off, and {others} of its paths were changed since by somebody else",
            hint=f"their old contents and the plan are in {place}; remove it when you have them",
        )


def _unput(root: str, place: Path, step: _Step) -> bool:
    """Put one path back; False = what is there is neither the old nor the new content."""
    waits = bool(step.new) and os.path.lexists(place / step.new)  # it has never gone there
    try:
        with _folder(root, step.name, make=bool(step.old)) as (fd, last):
            now: tuple[int, ...] = ()
            with contextlib.suppress(FileNotFoundError):
                now = stamp_of(os.lstat(last, dir_fd=fd))
            if now == step.was:
                return True
            if now != step.is_ and waits:
                return True
            if now not in {(), step.is_}:
                return False
            if step.old:
                os.rename(place / step.old, last, dst_dir_fd=fd)
            elif now:
                os.unlink(last, dir_fd=fd)
    except OSError as error:
        # Its folder is gone, or is a link now, which nobody follows.
        return waits or (not step.old and error.errno in {errno.ENOENT, errno.ENOTDIR})
    return True


@contextlib.contextmanager
def _folder(root: str, name: str, *, make: bool = False) -> Generator[tuple[int, str]]:
    """Open the folder that a name is in, over no link; `make` makes what is missing of it."""
    folder, last = os.path.split(name)
    path = root
    fd = open_root(path)
    try:
        for part in folder.split("/") if folder else ():
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            path = os.path.join(path, part)
            os.close(fd)
            fd = -1
            fd = open_root(path)
        yield fd, last
    finally:
        if fd >= 0:
            os.close(fd)


def _remove_empty(root: str, folder: str) -> None:
    """Remove folders that nothing is in any more, as git does."""
    while folder:
        try:
            with _folder(root, folder) as (fd, last):
                os.rmdir(last, dir_fd=fd)
        except OSError:
            return
        folder = os.path.dirname(folder)
