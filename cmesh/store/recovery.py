"""Bringing journaled rows into the database, and comparing it with the head.

Runs in the database process alone; blocks. It refuses rather than serve a store that lost
acknowledged rows, and then leaves every file as it was found.
"""

import _duckdb as duckdb

from cmesh.errors import StoreDamaged
from cmesh.store.backup import back_up
from cmesh.store.chain import link
from cmesh.store.database import Database, translate
from cmesh.store.exchange import Opened, Opening
from cmesh.store.head import Head
from cmesh.store.journal import Entry, frames

__all__ = ["bring_in", "open_database"]

_CHUNK_ROWS = 500  # at most so many long texts in one transaction


def open_database(opening: Opening) -> tuple[Database, Opened]:
    """Open the store's database and make it whole.

    Raises:
        StoreDamaged: acknowledged rows are missing, or the file cannot be read.
        StoreBusy: another process has the file open.
        SchemaTooNew: a newer cmesh wrote it.
        DiskFull: there is no room to open it.
    """
    database, acknowledged = Database(opening.directory), opening.acknowledged
    if not database.path.exists() and acknowledged is not None and acknowledged.seq > 0:
        raise StoreDamaged(f"`{database.path}` is missing, with {acknowledged.seq} rows")
    try:
        migrated = database.open(lambda version: back_up(opening.directory, version))
        head = bring_in(database, database.top(), opening.through)
        _compare(database, head, acknowledged)
        if opening.through is None:
            # The journal goes then, so nothing may be left that only a WAL holds.
            database.checkpoint()
        incarnation = database.incarnation(opening.incarnation, opening.node)
    except duckdb.Error as error:
        raise translate(error, database.path) from error
    return database, Opened(head=head, incarnation=incarnation, migrated=migrated)


def bring_in(database: Database, head: Head, through: int | None) -> Head:
    """Insert the journal's rows after `head`, up to row `through`; return the last one.

    Raises:
        duckdb.Error: DuckDB failed; how many rows it took must be asked anew.
        StoreDamaged: a row of the journal does not follow, or one that must be there is not.
    """
    if through is not None and through <= head.seq:
        return head
    waiting = list[Entry]()
    for frame in frames(database.path.parent, after=head.seq, through=through):
        for entry in frame:
            if entry.seq <= head.seq:
                continue
            if entry.seq != head.seq + 1 or entry.hash != link(head.hash, entry.canon):
                raise StoreDamaged(f"the journal's row {entry.seq} does not follow row {head.seq}")
            waiting.append(entry)
            head = Head(seq=entry.seq, hash=entry.hash)
        if len(waiting) >= _CHUNK_ROWS:
            _insert(database, waiting)
            waiting.clear()
    _insert(database, waiting)
    if through is not None and head.seq < through:
        lost = through - head.seq
        raise StoreDamaged(f"the journal ends at row {head.seq}: {lost} rows are lost")
    return head


def _insert(database: Database, entries: list[Entry]) -> None:
    for first in range(0, len(entries), _CHUNK_ROWS):
        database.insert(entries[first : first + _CHUNK_ROWS])


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
