"""The files a migration changes: a whole copy before it, and the way back onto that copy.

Blocks. Outputs are not copied: they are files by digest that no migration touches.
"""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import _duckdb as duckdb

from cmesh.errors import StoreDamaged
from cmesh.paths import ensure_private_dir, sync
from cmesh.store.database import Database, translate
from cmesh.store.head import StoreLock
from cmesh.store.migrations import MIGRATIONS, schema_version
from cmesh.store.snapshot import FILE_NAME, copy_files

__all__ = ["Rehearsal", "back_up", "backup_directory", "head_mark", "rehearse", "restore"]

_HEAD = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What opening a store would do: its schema now, 0 without a store, and this code's."""

    have: int
    want: int

    @property
    def migrates(self) -> bool:
        """Opening an existing store would change it."""
        return 0 < self.have < self.want


def rehearse(copy: Path) -> Rehearsal:
    """Open a copy of a database as a start would, migrations included.

    Raises:
        SchemaTooNew: a newer cmesh wrote it.
        StoreError: a migration fails, or the copy cannot be read.
    """
    path = copy / FILE_NAME
    if not path.exists():
        return Rehearsal(have=0, want=len(MIGRATIONS))
    try:
        with duckdb.connect(str(path), config={"threads": 1, "async_threads": 1}) as connection:
            have = schema_version(connection)
    except duckdb.Error as error:
        raise translate(error, path) from error
    database = Database(copy)
    try:
        database.open()
    finally:
        database.close()
    return Rehearsal(have=have, want=len(MIGRATIONS))


def backup_directory(store: Path, version: int) -> Path:
    """Return where the copy from before the migration of schema `version` lies."""
    return store / f"backup-schema-{version}"


def back_up(store: Path, version: int) -> None:
    """Copy database, WAL, journal and head; whole under its name or not there at all.

    Raises:
        DiskFull: there is no room for a copy.
        StoreError: the copy failed or took too long.
    """
    target = backup_directory(store, version)
    making = target.with_name(f"{target.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    ensure_private_dir(making)
    try:
        copy_files([*_files(store), store / _HEAD], making)
        for path in [*making.iterdir(), making]:
            sync(path)
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    sync(store)


def head_mark(store: Path) -> bytes:
    """Return what tells one acknowledged state of a store that nobody writes from all others."""
    with contextlib.suppress(FileNotFoundError):
        return (store / _HEAD).read_bytes()
    return b""


def restore(store: Path, version: int, mark: bytes) -> bool:
    """Go back to the copy from before a migration; False when there is none of that state.

    `mark` is the store's `head_mark` before the migration. INVARIANT: a copy of any other
    state is never used, since rows acknowledged after it would be lost. The copy stays.

    Raises:
        StoreBusy: somebody has the store open.
        StoreDamaged: the disk failed half way; the copy is whole.
    """
    backup = backup_directory(store, version)
    if not mark or head_mark(backup) != mark:
        return False
    lock = StoreLock(store)
    lock.acquire()
    try:
        _put_back(backup, store)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreDamaged(f"`{backup}` could not be put back: {reason}") from error
    finally:
        lock.release()
    return True


def _put_back(backup: Path, store: Path) -> None:
    # The older head comes first: a start in between then finds more than it asks for, and a
    # schema it does not know, never rows that seem to be lost.
    _replace(backup / _HEAD, store)
    kept = {path.name for path in _files(backup)}
    for path in _files(store):
        if path.name not in kept:
            path.unlink()
    for path in _files(backup):
        _replace(path, store)
    sync(store)


def _files(directory: Path) -> list[Path]:
    database = directory / FILE_NAME
    wal = database.with_name(f"{database.name}.wal")
    found = [path for path in (wal, database) if path.exists()]
    return [*sorted(directory.glob("journal-*")), *found]


def _replace(source: Path, directory: Path) -> None:
    incoming = directory / f"{source.name}.incoming"
    shutil.copyfile(source, incoming)
    incoming.chmod(0o600)
    sync(incoming)
    incoming.replace(directory / source.name)
