"""Copies of the database for other processes to read. Blocks.

The copying is a child's: no process that may open the live file with DuckDB must open it
in another way too (see database.py).
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cmesh.errors import DiskFull, StoreError
from cmesh.paths import ensure_private_dir
from cmesh.platform import files
from cmesh.text import one_line

__all__ = [
    "COPY_LIMIT_S",
    "FILE_NAME",
    "Base",
    "Mark",
    "Snapshot",
    "add_to_base",
    "copy_base",
    "copy_files",
    "discard",
    "mark_of",
]

FILE_NAME = "store.duckdb"
"""The database in a store's directory, and in a copy's."""

COPY_LIMIT_S = 30.0


class Mark(NamedTuple):
    """One state of the main file.

    Attributes:
        checkpoints: as its process counts them; the rest is what stat(2) says.
    """

    checkpoints: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A copy of the main file, without its WAL; never written to."""

    directory: Path
    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A copy, base and WAL, in a directory of its own; `seq` is the last row in it."""

    directory: Path
    seq: int


def copy_files(sources: Sequence[Path], target: Path) -> None:
    """Copy files into the directory `target`, by a child, under their own names.

    Raises:
        DiskFull: there is no room for a copy.
        StoreError: the copy failed or took too long.
    """
    try:
        done = subprocess.run(  # noqa: S603  # fixed program, our own paths
            files.copy_argv(sources, target),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COPY_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StoreError(f"copying the store took more than {COPY_LIMIT_S:g} s") from error
    if done.returncode:
        text = one_line(done.stderr.decode("utf-8", "replace"))
        raise DiskFull(text) if "No space left" in text else StoreError(f"no copy: {text}")


def mark_of(database: Path, checkpoints: int) -> Mark:
    """Return what tells one state of the main file from another; it is looked at, not opened."""
    seen = database.stat()
    return Mark(checkpoints, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def copy_base(database: Path, directory: Path, mark: Mark) -> Base:
    """Copy the main file alone into a new directory; `mark` is what it is a copy of.

    Raises:
        DiskFull: there is no room for a copy.
        StoreError: the copy failed or took too long.
    """
    ensure_private_dir(directory.parent)
    directory.mkdir(mode=0o700)
    try:
        copy_files([database], directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Base(directory=directory, mark=mark)


def add_to_base(base: Base, database: Path, directory: Path, seq: int) -> Snapshot:
    """Fill `directory` with the base, as a link to it, and a copy of the database's WAL.

    Nobody may write to the database meanwhile.

    Raises:
        DiskFull: there is no room for a copy.
        StoreError: the copy failed or took too long.
    """
    source = base.directory / FILE_NAME
    try:
        (directory / FILE_NAME).hardlink_to(source)
    except OSError:  # a file system without links
        copy_files([source], directory)
    wal = database.with_name(f"{FILE_NAME}.wal")
    if wal.exists():
        copy_files([wal], directory)
    return Snapshot(directory=directory, seq=seq)


def discard(directory: Path) -> None:
    """Remove a directory and all below, whatever the modes; what cannot go stays. Blocks.

    A query's process has folders that nothing may be made in, and bubblewrap leaves mount points
    there all the same. Nobody else may change the tree meanwhile.
    """
    for parent, folders, _ in os.walk(directory):
        for folder in folders:
            with contextlib.suppress(OSError):
                path = Path(parent, folder)
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
