"""Names on a disk where POSIX holds: rename(2) is one step, and a directory can be synced."""

import os
from pathlib import Path

from cmesh.platform.posix.names import is_absolute

__all__ = ["real_name", "replace", "set_mode", "sync"]


def real_name(text: str) -> str:
    """Return where a directory really is. Blocks on the disk."""
    return os.path.realpath(text) if is_absolute(text) else text


def replace(source: Path, target: Path) -> None:
    """Give `source` the name `target` as one step, whatever had it."""
    source.replace(target)


def set_mode(fd: int, mode: int) -> None:
    """Give an open file exactly this mode, whatever the umask is."""
    os.fchmod(fd, mode)


def sync(path: Path) -> None:
    """Make a file's content, or the entries of a directory, durable (fsync(2))."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
