"""Opening a store: lock, migrate, replay the journal, compare with the head.

Blocks; run in a thread. It refuses rather than serve a store that lost acknowledged rows,
and then leaves every file as it was found.
"""

import contextlib
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from cmesh.clock import Clock
from cmesh.errors import StoreDamaged
from cmesh.paths import ensure_private_dir
from cmesh.store.applier import Applier
from cmesh.store.blobs import Blobs, Prompts
from cmesh.store.chain import link
from cmesh.store.database import Database, translate
from cmesh.store.fold import Draft
from cmesh.store.head import Head, HeadFile, StoreLock
from cmesh.store.journal import Entry, Journal
from cmesh.store.snapshot import copy_database

__all__ = ["Parts", "StoreOptions", "open_parts"]

_REPLAY_ROWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How to open a store; see `Store.open`."""

    directory: Path
    clock: Clock
    node: str
    keep_prompts: bool
    floor_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """An open store's parts, none of its threads started."""

    lock: StoreLock
    head_file: HeadFile
    head: Head
    database: Database
    journal: Journal
    applier: Applier
    blobs: Blobs
    prompts: Prompts | None
    incarnation: str
    migrated: list[int]

    def revive(self, draft: Draft) -> None:
        """Give an unfinished task its prompt back, where the database must not hold it."""
        if self.prompts is not None:
            prompt = self.prompts.read(draft.record.task_id)
            draft.record = replace(draft.record, spec=replace(draft.record.spec, prompt=prompt))

    def close(self) -> None:
        """End the apply thread and give everything up. The journal goes if DuckDB has it all."""
        self.applier.stop()
        whole = False
        with contextlib.suppress(duckdb.Error):
            self.database.checkpoint()
            whole = self.database.top().seq >= self.applier.given
        self.database.close()
        self.journal.close(drop=whole)
        self.head_file.close()
        self.lock.release()


def open_parts(options: StoreOptions) -> Parts:
    """Open the store; see `Store.open` for what it raises."""
    directory = options.directory
    ensure_private_dir(directory)
    with contextlib.ExitStack() as undo:
        lock, head_file = StoreLock(directory), HeadFile(directory)
        lock.acquire()
        undo.callback(lock.release)
        undo.callback(head_file.close)
        acknowledged = head_file.open()
        database, journal = Database(directory), Journal(directory)
        undo.callback(database.close)
        if not database.path.exists() and acknowledged is not None and acknowledged.seq > 0:
            raise StoreDamaged(f"`{database.path}` is missing, with {acknowledged.seq} rows")
        migrated = database.open(lambda version: _back_up(database.path, version))
        head = _recover(database, journal, acknowledged)
        if acknowledged is None or head.seq > acknowledged.seq:
            head_file.write(head)
        incarnation = database.incarnation(uuid.uuid4().hex, options.node)
        prompts = None if options.keep_prompts else Prompts(directory)
        blobs = Blobs(directory)
        undo.pop_all()
    return Parts(
        lock=lock,
        head_file=head_file,
        head=head,
        database=database,
        journal=journal,
        applier=Applier(database, journal, head.seq),
        blobs=blobs,
        prompts=prompts,
        incarnation=incarnation,
        migrated=migrated,
    )


def _recover(database: Database, journal: Journal, acknowledged: Head | None) -> Head:
    """Bring journaled rows into the database and return the head they make.

    Raises:
        StoreDamaged: an acknowledged row is missing or another one stands in its place.
    """
    try:
        head = _replay(database, journal)
        _compare(database, head, acknowledged)
        if journal.segments():
            database.checkpoint()
    except duckdb.Error as error:
        raise translate(error, database.path) from error
    journal.close(drop=True)
    return head


def _replay(database: Database, journal: Journal) -> Head:
    head, waiting = database.top(), list[Entry]()
    for frame in journal.read():
        for entry in frame:
            if entry.seq <= head.seq:
                continue
            if entry.seq != head.seq + 1 or entry.hash != link(head.hash, entry.canon):
                raise StoreDamaged(f"the journal's row {entry.seq} does not follow row {head.seq}")
            waiting.append(entry)
            head = Head(seq=entry.seq, hash=entry.hash)
        if len(waiting) >= _REPLAY_ROWS:
            database.insert(waiting)
            waiting = []
    if waiting:
        database.insert(waiting)
    return head


def _compare(database: Database, head: Head, acknowledged: Head | None) -> None:
    if acknowledged is None:
        if head.seq:
            raise StoreDamaged("the head file is missing, so lost rows could not be noticed")
        return
    if head.seq < acknowledged.seq:
        lost = acknowledged.seq - head.seq
        raise StoreDamaged(
            f"the store ends at row {head.seq}, but row {acknowledged.seq} was acknowledged:"
            f" {lost} rows are lost"
        )
    if acknowledged.seq and database.hash_at(acknowledged.seq) != acknowledged.hash:
        raise StoreDamaged(f"row {acknowledged.seq} is not the one that was acknowledged")


def _back_up(database: Path, version: int) -> None:
    target = database.parent / f"backup-schema-{version}"
    ensure_private_dir(target)
    copy_database(database, target)
