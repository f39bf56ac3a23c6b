"""The DuckDB file: opening, inserting, reading. The only place that writes to it.

For the database process alone. INVARIANT: nothing in that process opens the file itself
(to copy or hash it): closing any descriptor of it would drop DuckDB's lock. SQL of users
never runs here.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import _duckdb as duckdb  # what `duckdb` re-exports; that takes 0.15 s more to import

from cmesh.errors import DiskFull, StoreBusy, StoreDamaged, StoreError
from cmesh.store.chain import GENESIS
from cmesh.store.erasing import erase
from cmesh.store.exchange import Reader
from cmesh.store.head import Head
from cmesh.store.journal import Entry
from cmesh.store.migrations import migrate
from cmesh.store.snapshot import FILE_NAME
from cmesh.store.texts import TEXTS_ERASED
from cmesh.text import one_line

__all__ = ["WAL_CAP_BYTES", "Database", "translate"]

WAL_CAP_BYTES = 16 * 1024**2
"""A longer WAL is brought into the main file after the commit that made it so.

It bounds what each snapshot copies while nothing may be written, and what a crash replays. Only
a copy of the main file that is being made lets the WAL get longer, for as long as that takes.
"""

# One thread: more would idle as native threads and bring nothing for a file of this size.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "async_threads": 1,
    # A limit, not a reservation. A checkpoint at the start must never need more: a store that
    # peers filled with long texts opened with 2 GB and not with 1 GB.
    "memory_limit": "2GB",
    # Never by itself: the main file may change only when nobody copies it. See `WAL_CAP_BYTES`.
    "checkpoint_threshold": "1TB",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
}
_LOCKDOWN = (
    "SET TimeZone='UTC'",
    "SET temp_directory=''",
    "SET enable_external_access=false",
    "SET lock_configuration=true",
)


class Database:
    """One open file, for one thread.

    Attributes:
        held: no checkpoint is made by `insert`, whatever the length of the WAL.
        checkpoints: how many were made since the file was opened.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self.held = False
        self.checkpoints = 0
        self._wal = directory / f"{FILE_NAME}.wal"
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._inserts: dict[str, tuple[str, list[str]]] = {}

    def open(self, backup: Callable[[int], None] | None = None) -> list[int]:
        """Open the file, made when there is none; return the schema versions applied.

        Raises:
            StoreDamaged: DuckDB cannot read the file or its WAL.
            StoreBusy: another process has the file open.
            SchemaTooNew: a newer cmesh wrote it.
            DiskFull: there is no room.
        """
        try:
            applied = migrate(self._connect(), backup=backup)
            self._inserts = _inserts(self._require())
        except duckdb.Error as error:
            raise translate(error, self.path) from error
        return applied

    def close(self) -> None:
        """Close the file; DuckDB checkpoints on the way when it can."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(duckdb.Error):
                connection.close()

    def insert(self, entries: Sequence[Entry]) -> None:
        """Add rows in one transaction; durable when it returns.

        A row that says which texts are erased erases them in the same transaction: whoever
        reads the log finds both or neither, and a journal that is replayed does it again.

        Raises:
            duckdb.Error: nothing was added, except that a failed COMMIT may have been done.
        """
        connection = self._require()
        connection.execute("BEGIN")
        try:
            self._add("log", [_log_values(entry) for entry in entries])
            tables: dict[str, list[Mapping[str, object]]] = {}
            for entry in entries:
                row = {**entry.values, "seq": entry.seq, "ts": entry.ts}
                tables.setdefault(entry.table, []).append(row)
            for table, rows in tables.items():
                self._add(table, rows)
            for entry in entries:
                if entry.kind == TEXTS_ERASED:
                    erase(connection, entry.seq, str(entry.values["data"]))
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise
        if not self.held and self._wal_bytes() > WAL_CAP_BYTES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Bring everything into the main file, so that no WAL is needed to read it.

        Without a WAL nothing is done, and the file keeps its bytes and its times.
        """
        if self._wal_bytes():
            self._require().execute("CHECKPOINT")
            self.checkpoints += 1

    def top(self) -> Head:
        """Return the last row's number and hash."""
        row = self._require().execute("SELECT max(seq), arg_max(h, seq) FROM log").fetchone()
        if not row or row[0] is None:
            return Head(seq=0, hash=GENESIS)
        return Head(seq=int(row[0]), hash=bytes(row[1]))

    def hash_at(self, seq: int) -> bytes | None:
        """Return the hash of a row, or None when there is no such row."""
        row = self._require().execute("SELECT h FROM log WHERE seq = $1", [seq]).fetchone()
        return None if row is None else bytes(row[0])

    def incarnation(self, fresh: str, node: str) -> str:
        """Return the store's incarnation; `fresh` becomes it when there is none yet."""
        connection = self._require()
        row = connection.execute(
            "SELECT coalesce((SELECT arg_max(data->>'incarnation', seq) FROM audit_row"
            " WHERE kind = 'store_restored'),"
            " (SELECT arg_max(incarnation, created_at) FROM store_row))"
        ).fetchone()
        if row and row[0] is not None:
            return str(row[0])
        connection.execute("INSERT INTO store_row VALUES ($1, $2, now())", [fresh, node])
        return fresh

    @contextlib.contextmanager
    def reading(self) -> Generator[Reader]:
        """Give a cursor in a READ ONLY transaction."""
        cursor = self._require().cursor()
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            yield cursor
        finally:
            cursor.close()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        before = os.umask(0o077)
        try:
            self._connection = duckdb.connect(str(self.path), config=_CONFIG)
        finally:
            os.umask(before)
        for statement in _LOCKDOWN:
            self._connection.execute(statement)
        return self._connection

    def _require(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise StoreError("the store is closed")
        return self._connection

    def _wal_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def _add(self, table: str, rows: list[Mapping[str, object]]) -> None:
        statement, columns = self._inserts[table]
        lists = [[row.get(column) for row in rows] for column in columns]
        self._require().execute(statement, lists)


def translate(error: duckdb.Error, path: Path) -> StoreError:
    """Return cmesh's error for DuckDB's."""
    text = str(error)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return DiskFull(f"no room for the store `{path.name}`")
    if "Could not set lock on file" in text:
        return StoreBusy(f"`{path}` is open in another process")
    if any(sign in text for sign in _DAMAGE):
        return StoreDamaged(f"`{path}` cannot be read: {one_line(text)}")
    return StoreError(f"the store failed: {one_line(text)}")


_DAMAGE = (
    "Corrupt",
    "orrupted",
    "checksum",
    "Could not read enough bytes",
    "replaying WAL",
    "not a valid DuckDB database",
    "Serialization Error",
)


def _log_values(entry: Entry) -> Mapping[str, object]:
    return {
        "seq": entry.seq,
        "ts": entry.ts,
        "kind": entry.kind,
        "task_id": entry.task_id,
        "canon": entry.canon,
        "h": entry.hash,
    }


def _inserts(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, list[str]]]:
    """Return, for each table, an INSERT taking one list per column, and the columns."""
    columns = connection.execute(
        "SELECT c.table_name, c.column_name, c.data_type FROM duckdb_columns() c"
        " JOIN duckdb_tables() t USING (table_oid) WHERE NOT t.internal"
        " ORDER BY c.table_name, c.column_index"
    ).fetchall()
    tables: dict[str, list[tuple[str, str]]] = {}
    for table, column, data_type in columns:
        tables.setdefault(str(table), []).append((str(column), str(data_type)))
    return {
        table: (_insert(table, list_), [c for c, _ in list_]) for table, list_ in tables.items()
    }


def _insert(table: str, columns: list[tuple[str, str]]) -> str:
    # Lists unnested: one plan for any number of rows, many times faster than a plan per row.
    names = ", ".join(f'"{column}"' for column, _ in columns)
    values = ", ".join(_unnest(n, kind) for n, (_, kind) in enumerate(columns, start=1))
    return f'INSERT INTO "{table}" ({names}) SELECT {values}'


def _unnest(n: int, kind: str) -> str:
    match kind:
        case "TIMESTAMP WITH TIME ZONE":
            return f"make_timestamptz(unnest(${n}::BIGINT[]))"
        case "JSON":
            return f"unnest(${n}::VARCHAR[])::JSON"
        case _:
            return f"unnest(${n}::{kind}[])"
