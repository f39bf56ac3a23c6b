"""Writing the database anew: the process that does it, and putting the new file in its place.

Free blocks of a DuckDB file keep what was in them. A copy row by row has none, so nothing
that was erased before is left. Blocks; the old file is the database until one rename.
"""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cmesh
from cmesh.errors import DiskFull, StoreError
from cmesh.paths import sync
from cmesh.store.room import Room
from cmesh.store.snapshot import FILE_NAME
from cmesh.text import one_line

__all__ = ["NEW_NAME", "Leash", "copy_compact", "drop_backups", "rewrite", "tidy"]

NEW_NAME = f"{FILE_NAME}.compact"
"""The new file until it is whole; what a kill leaves of it is deleted."""

REWRITE_LIMIT_S = 1800.0

_BOOT = """
import sys
sys.path.insert(0, sys.argv[1])
import cmesh
del sys.path[0]
from cmesh.store.compact_worker import main
main(sys.argv[2], sys.argv[3])
"""


class Leash:
    """What the copying process lives by: it ends when this is let go, or this process dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.far, self._near = os.pipe()
        self._held = True

    def let_go(self) -> None:
        """End the process, now or as soon as it starts; idempotent, from any thread."""
        with self._lock:
            if self._held:
                self._held = False
                os.close(self._near)

    def close(self) -> None:
        """Give the rest up, once the process is over."""
        self.let_go()
        os.close(self.far)


def tidy(directory: Path) -> None:
    """Delete what a rewriting that was killed has left in a store."""
    for name in (NEW_NAME, f"{NEW_NAME}.wal"):
        (directory / name).unlink(missing_ok=True)


def drop_backups(directory: Path) -> None:
    """Delete every copy from before a migration: it holds what was erased since."""
    for path in directory.glob("backup-schema-*"):
        shutil.rmtree(path, ignore_errors=True)


def copy_compact(source: Path, target: Path, leash: Leash) -> None:
    """Write the rows of a database that nobody has open into a new file, durably.

    Raises:
        DiskFull: there is no room; no new file is left.
        StoreError: it failed, or the leash was let go; no new file is left.
    """
    wal = target.with_name(f"{target.name}.wal")
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter, our own paths
            [sys.executable, "-I", "-c", _BOOT, str(_ROOT), str(source), str(target)],
            stdin=leash.far,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
            cwd="/",
            timeout=REWRITE_LIMIT_S,
            check=False,
        )
        if done.returncode:
            text = one_line(done.stderr.decode("utf-8", "replace")[-500:]) or "it was ended"
            full = "No space left" in text or "quota exceeded" in text
            raise (DiskFull if full else StoreError)(f"the store was not compacted: {text}")
        if wal.exists():
            raise StoreError("the store was not compacted: its new file is not whole")
        sync(target)
    except BaseException as error:
        for path in (target, wal):
            path.unlink(missing_ok=True)
        if isinstance(error, subprocess.TimeoutExpired):
            raise StoreError(f"compacting took more than {REWRITE_LIMIT_S:g} s") from error
        raise


def rewrite(directory: Path, room: Room, leash: Leash) -> tuple[int, int]:
    """Put a new file in the place of a database that nobody has open; return both sizes.

    Raises:
        DiskFull: there is no room for both at once.
        StoreError: it failed, or the leash was let go; the old file is as it was.
    """
    database, fresh = directory / FILE_NAME, directory / NEW_NAME
    if database.with_name(f"{FILE_NAME}.wal").exists():
        raise StoreError("the store was not compacted: its database was not closed well")
    tidy(directory)
    before = database.stat().st_size
    room.require_bytes(before)
    copy_compact(database, fresh, leash)
    # INVARIANT: the old file has no WAL, or it would be taken for the new one's.
    os.replace(fresh, database)  # noqa: PTH105  # as one step, over the old one
    sync(directory)
    return before, database.stat().st_size


_ROOT = Path(cmesh.__file__).parents[1]
