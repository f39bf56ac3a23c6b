"""Names on a disk of Windows, where a file that somebody has open refuses a new one in its place.

Virus scanners, indexers and readers open a file for a moment without sharing its name, so a
replacing that is refused for that is tried again for a while.
"""

import ntpath
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cmesh.platform.windows.names import normal

__all__ = [
    "REPLACE_LIMIT_S",
    "copy_argv",
    "exchange",
    "real_name",
    "replace",
    "set_mode",
    "sync",
]

REPLACE_LIMIT_S = 2.0
"""How long a target that another process has open is waited for."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.1
_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION = 5, 32, 33  # winerror.h
# MoveFileEx says "access denied" too where the target is open without FILE_SHARE_DELETE.
_IN_USE = frozenset({_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION})

_COPY = "import shutil, sys; [shutil.copy(one, sys.argv[-1]) for one in sys.argv[1:-1]]"


def copy_argv(sources: Sequence[Path], target: Path) -> list[str]:
    """Return the command that copies files into a directory, under their own names."""
    return [sys.executable, "-I", "-S", "-c", _COPY, *map(str, sources), str(target)]


def exchange(one: Path, other: Path) -> bool:
    """Return False: no call of Windows swaps two names."""
    del one, other
    return False


def _resolve(place: str) -> str:
    # INVARIANT: strict, for else Python keeps the asked name of what it could not resolve.
    return os.path.realpath(place, strict=True)


def _is_there(place: str) -> bool:
    """Say whether a name is there itself, wherever it leads, or may be."""
    try:
        os.lstat(place)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def real_name(
    text: str,
    *,
    resolve: Callable[[str], str] = _resolve,
    is_there: Callable[[str], bool] = _is_there,
) -> str:
    """Return where a directory really is, in the disk's own spelling; empty where nobody can say.

    Blocks on the disk. A share that is named is never asked: its server would be told who this
    user is; a link of this disk to one is followed, and found to be a share.
    """
    place = normal(text)
    if place is None:
        return text
    missing: list[str] = []
    while True:
        try:
            return ntpath.join(resolve(place), *missing)
        except FileNotFoundError:
            if is_there(place):
                return ""  # a link to nowhere, which may lead anywhere once it is looked at again
        except OSError:
            return ""
        place, name = ntpath.split(place)
        if not name:
            return ""  # no such drive
        missing.insert(0, name)


def replace(
    source: Path,
    target: Path,
    *,
    move: Callable[[Path, Path], None] = os.replace,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Give `source` the name `target` as one step, whatever had it.

    Blocks for `REPLACE_LIMIT_S` at most while another process has `target` open.

    Raises:
        OSError: the last refusal; both files are as they were.
    """
    waited, wait = 0.0, _FIRST_WAIT_S
    while True:
        try:
            move(source, target)
        except OSError as error:
            if getattr(error, "winerror", None) not in _IN_USE or waited >= REPLACE_LIMIT_S:
                raise
        else:
            return
        sleep(wait)
        waited, wait = waited + wait, min(wait * 2, _LONGEST_WAIT_S)


def set_mode(fd: int, mode: int) -> None:
    """Do nothing: who may use a file is said by its directory's access list, which it inherits."""
    del fd, mode


def sync(path: Path) -> None:
    """Make a file's content durable (FlushFileBuffers).

    A directory cannot be opened for that, and needs it less: NTFS keeps names in its journal.
    """
    if path.is_dir():
        return
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
