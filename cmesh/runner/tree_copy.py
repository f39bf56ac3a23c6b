"""Copies what a tree names, with no link followed on the way. Standard library only.

Most files of a tree are small, so a call that is saved here counts as often as there are files.
"""

import contextlib
import errno
import fcntl
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from collections.abc import Mapping

    from cmesh.runner.tree_git import COPY_BYTES, Trouble
    from cmesh.runner.tree_names import REPOSITORY
    from cmesh.runner.tree_open import GONE, Folders
else:
    from tree_git import COPY_BYTES, Trouble
    from tree_names import REPOSITORY
    from tree_open import GONE, Folders

__all__ = ["FILE", "LINK", "PROGRAM", "copy_files"]

LINK, FILE, PROGRAM = "120000", "100644", "100755"
"""Modes of a tree's entries, as git writes them."""

FICLONE = 0x40049409  # linux/fs.h
CLONE_BYTES = 64 * 1024
"""Files below are copied by their bytes: there is next to nothing to share."""


def copy_files(
    root: str,
    entries: "Mapping[str, tuple[str, str]]",
    target: str,
    most_bytes: int,
    most_files: int,
) -> tuple[int, list[str]]:
    """Copy entries, each a mode and an object, into `target`, which nobody else writes to.

    One that has an object already is one that cannot be read. Returns the bytes of the files, and
    the names that went away meanwhile.

    Raises:
        Trouble: there is more than a copy may have.
        OSError: the disk refuses.
    """
    if len(entries) > most_files:
        raise Trouble(f"it has {len(entries)} files, more than the {most_files} of a copy")
    size = 0
    gone: list[str] = []
    made = set[str]()
    with contextlib.closing(Folders(root)) as folders:
        for name, (mode, oid) in entries.items():
            if oid and mode != REPOSITORY:
                continue
            place = os.path.join(target, name)
            parent = place if mode == REPOSITORY else os.path.dirname(place)
            if parent not in made:
                os.makedirs(parent, 0o755, exist_ok=True)
                made.add(parent)
            try:
                if mode == LINK:
                    os.symlink(folders.readlink(name), place)
                elif mode != REPOSITORY:
                    size += _copy_file(folders.open(name), place, mode, size, most_bytes)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                gone.append(name)
    return size, gone


def _copy_file(fd: int, place: str, mode: str, before: int, most: int) -> int:
    """Copy an open file, close it and return its size."""
    new = -1
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no file any more", place)
        if before + found.st_size > most:
            raise Trouble(f"its files have more than the {most} bytes of a copy")
        rights = 0o777 if mode == PROGRAM else 0o666
        new = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, rights)
        _fill(new, fd, found.st_size)
    finally:
        os.close(fd)
        if new >= 0:
            os.close(new)
    return found.st_size


def _fill(new: int, fd: int, size: int) -> None:
    """Give a file the content of another one; its blocks are shared where that can be, and pays."""
    if size >= CLONE_BYTES:
        with contextlib.suppress(OSError):
            fcntl.ioctl(new, FICLONE, fd)
            return
    wanted = min(COPY_BYTES, size + 1)  # so that a whole file and its end are one call
    while data := os.read(fd, wanted):
        written = os.write(new, data)
        while written < len(data):
            written += os.write(new, data[written:])
        if len(data) < wanted:
            return
