"""What macOS adds: two names exchanged (renamex_np(2), on APFS)."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from cmesh.platform.posix.swap import swapped

__all__ = ["copy_argv", "exchange"]

_SWAP = 2  # sys/stdio.h: RENAME_SWAP


def copy_argv(sources: Sequence[Path], target: Path) -> list[str]:
    """Return the command that copies files into a directory, under their own names."""
    return ["/bin/cp", "--", *map(str, sources), str(target)]


def exchange(one: Path, other: Path) -> bool:
    """Swap two names as one step; False where the system or the disk cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    return swapped(lambda: libc.renamex_np(*names, _SWAP))
