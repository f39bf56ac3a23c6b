"""A whole store put in the place of another, which keeps its files under another name. Blocks.

Where the system swaps two names in one step, that is the step. Elsewhere there is a moment without
a store, which `finish` ends: whoever opens a store calls it first, so that none begins a new one.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from cmesh.paths import sync

__all__ = ["COMING", "finish", "replace_store"]

COMING = ".restored"
"""Added to a store's name: the whole one that is about to have that name."""

_AT_FDCWD, _SWAP = -100, 2  # linux/fcntl.h, linux/fs.h; sys/stdio.h of macOS has the same 2
_NO_SWAP = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def replace_store(fresh: Path, store: Path, kept: Path) -> None:
    """Give `fresh` the name `store`, and what had that name the name `kept`; all on one disk.

    Raises:
        OSError: the disk refuses. What is whole stays whole, under one of the names.
    """
    # INVARIANT: first a name that nothing deletes, then the swap.
    fresh.rename(kept)
    sync(store.parent)
    if not _swapped(kept, store):
        coming = _coming(store)
        kept.rename(coming)
        sync(store.parent)
        store.rename(kept)
        sync(store.parent)
        finish(store)
    sync(store.parent)


def finish(store: Path) -> None:
    """Do the last step of a replacing that was killed; or undo one that had hardly begun.

    Raises:
        OSError: the disk refuses.
    """
    coming = _coming(store)
    if not coming.is_dir():
        return
    if store.exists():
        shutil.rmtree(coming)  # the backup that it came out of is where it was
        return
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        coming.rename(store)
        sync(store.parent)


def _coming(store: Path) -> Path:
    return store.with_name(f"{store.name}{COMING}")


def _swapped(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the kernel, its library or the disk cannot."""
    libc, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(one), os.fsencode(other))
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _SWAP)
        else:
            failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _SWAP)
    except AttributeError:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _NO_SWAP:
        return False
    raise OSError(number, os.strerror(number))
