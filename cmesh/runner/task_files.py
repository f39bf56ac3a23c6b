"""Files of task directories, from the worker's side: private, whole, and gone when told. Blocks."""

import contextlib
import os
import shutil
from pathlib import Path

__all__ = ["delete_tree", "replace", "size", "write_synced"]


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
    """Remove a tree, also what its owner may not enter."""

    def open_up(_function: object, name: str, _error: object) -> None:
        # An agent may leave directories that nobody may enter, not even their owner.
        with contextlib.suppress(OSError):
            Path(name).parent.chmod(0o700)
            Path(name).chmod(0o700)

    for _attempt in range(2):
        if path.exists():
            shutil.rmtree(path, onerror=open_up)
