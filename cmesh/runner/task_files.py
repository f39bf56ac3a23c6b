"""Files of task directories, from the worker's side: private, whole, and gone when told. Blocks."""

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["delete_tree", "replace", "size", "write_synced"]

AT_ONCE = 10_000
"""Names of one folder that are held in memory."""

DEEP = 32
"""Folders in each other that are open at a time."""

_OWNERS = 0o700


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the place of a file at once; not durable."""
    temporary = path.with_name(f".{path.name}")
    with open(temporary, "wb", opener=_open_private) as file:
        file.write(data)
    temporary.replace(path)


def write_synced(path: Path, data: bytes) -> None:
    """Write a private file and wait until the disk has it."""
    with open(path, "wb", opener=_open_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def size(path: str) -> int:
    """Return a file's length in bytes; 0 when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def delete_tree(path: Path) -> None:
    """Remove a tree, also what its owner may not enter; what cannot be removed stays.

    An agent makes trees as deep and as wide as it likes. So what is deep is moved to the top: it
    takes few descriptors, short names and little memory whatever the tree.
    """
    with contextlib.suppress(OSError):
        _open_up(path)
    try:
        top = _open_folder(path)
    except OSError:  # it is not there, or no folder
        return
    fresh = (f".gone-{secrets.token_hex(8)}-{number}" for number in itertools.count())
    try:
        while folders := _clear(top):
            changed = [_remove(name, top, [top], fresh) for name in folders]
            if not any(changed):
                break
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        path.rmdir()


def _remove(name: str, where: int, way: Sequence[int], fresh: Iterator[str]) -> bool:
    """Remove a folder of `where`, to which the open folders `way` lead; False = nothing changed."""
    changed = False
    try:
        # An agent may leave directories that nobody may enter, not even their owner.
        _open_up(name, where)
        if len(way) > DEEP:
            os.rename(name, next(fresh), src_dir_fd=where, dst_dir_fd=way[0])
            return True
        folder = _open_folder(name, where)
    except OSError:
        return False
    try:
        while inner := _clear(folder):
            those = [_remove(one, folder, [*way, folder], fresh) for one in inner]
            if not any(those):
                return changed
            changed = True
        os.rmdir(name, dir_fd=where)
    except OSError:
        return changed
    finally:
        os.close(folder)
    return True


def _open_up(name: str | Path, beside: int | None = None) -> None:
    """Let the owner into a folder. Raises OSError when it is none."""
    # INVARIANT: `chmod` follows links, and whoever lives on may have put one in its place.
    flags = getattr(os, "O_PATH", 0)
    if not flags:
        os.chmod(name, _OWNERS, dir_fd=beside, follow_symlinks=False)
        return
    handle = os.open(name, flags | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=beside)
    try:
        Path(f"/proc/self/fd/{handle}").chmod(_OWNERS)
    finally:
        os.close(handle)


def _open_folder(name: str | Path, beside: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=beside)


def _clear(folder: int) -> list[str]:
    """Remove what is in a folder; return some folders that are not empty, none = that is all."""
    while True:
        with os.scandir(folder) as entries:
            some = [
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in itertools.islice(entries, AT_ONCE)
            ]
        full: list[str] = []
        removed = False
        for name, is_folder in some:
            try:
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=folder)
                removed = True
            except OSError:
                full += [name] if is_folder else []
        if full or not removed:
            return full
