"""Copies of the database for other processes to read. Blocks.

The copying is a child's: no process that may open the live file with DuckDB must open it
in another way too (see database.py).
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh.errors import DiskFull, StoreError
from cmesh.paths import ensure_private_dir
from cmesh.text import one_line

__all__ = [
    "COPY_LIMIT_S",
    "FILE_NAME",
    "Snapshot",
    "copy_database",
    "copy_files",
    "forget_snapshots",
    "take_snapshot",
]

FILE_NAME = "store.duckdb"
"""The database in a store's directory, and in a copy's."""

COPY_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A whole copy in a directory of its own; `seq` is the last row in it."""

    directory: Path
    seq: int


def copy_database(database: Path, target: Path) -> None:
    """Copy the database and its WAL into the directory `target`, under their own names.

    Nobody may write to the database meanwhile.

    Raises:
        DiskFull: there is no room for a copy.
        StoreError: the copy failed or took too long.
    """
    wal = database.with_name(f"{database.name}.wal")
    copy_files([path for path in (database, wal) if path.exists()], target)


def copy_files(sources: Sequence[Path], target: Path) -> None:
    """Copy files into the directory `target`, by a child, under their own names.

    Raises:
        DiskFull: there is no room for a copy.
        StoreError: the copy failed or took too long.
    """
    # A file system that shares blocks copies in no time; others copy the bytes.
    sharing = ["--reflink=auto"] if sys.platform == "linux" else []
    try:
        done = subprocess.run(  # noqa: S603  # fixed program, our own paths
            ["/bin/cp", *sharing, "--", *map(str, sources), str(target)],
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


def take_snapshot(database: Path, directory: Path, name: str, seq: int) -> Snapshot:
    """Return a whole copy in a new directory `name` under `directory`."""
    ensure_private_dir(directory)
    made, making = directory / name, directory / f"{name}.part"
    making.mkdir(mode=0o700)
    try:
        copy_database(database, making)
        making.rename(made)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return Snapshot(directory=made, seq=seq)


def forget_snapshots(directory: Path) -> None:
    """Delete what an earlier process left."""
    shutil.rmtree(directory, ignore_errors=True)
