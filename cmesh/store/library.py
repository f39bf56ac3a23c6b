"""Connections for programs of the user's own, on files that go when the connection does. Blocks."""

import shutil
import tempfile
import weakref
from pathlib import Path

import _duckdb as duckdb

from cmesh.errors import StoreDamaged
from cmesh.store.database import Database, translate
from cmesh.store.records import Finding
from cmesh.store.recovery import bring_in

__all__ = ["connect_copy", "connect_file"]

# Nothing is loaded from a network unasked; the rest is the user's to set.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": "false"}


def connect_copy(copy: Path) -> duckdb.DuckDBPyConnection:
    """Return a read-only connection on a copy of a store, which may be deleted afterwards.

    Raises:
        StoreDamaged: DuckDB cannot read the copy, or its journal does not follow.
        SchemaTooNew: a newer cmesh wrote it.
    """
    database = Database(copy)
    try:
        database.open()
        try:
            bring_in(database, database.top(), None)
            # All in one file: a WAL beside it would be read again when that is gone.
            database.checkpoint()
        except duckdb.Error as error:
            raise translate(error, database.path) from error
    finally:
        database.close()
    return connect_file(database.path)


def connect_file(path: Path, finding: Finding | None = None) -> duckdb.DuckDBPyConnection:
    """Return a read-only connection on a database file without a WAL, which may be deleted.

    Raises:
        StoreDamaged: there is a finding, or it cannot be read.
    """
    if finding is not None:
        seq = "" if finding.seq is None else f"row {finding.seq}: "
        raise StoreDamaged(f"{seq}{finding.what}", hint="run `cmesh audit open --verify`")
    try:
        connection = duckdb.connect(str(path), read_only=True, config=_CONFIG)
        connection.execute("SET TimeZone='UTC'")
        # What a long query spills would go beside a file that has no place any more.
        spill = tempfile.mkdtemp(prefix="cmesh-audit-")
        weakref.finalize(connection, shutil.rmtree, spill, ignore_errors=True)
        connection.execute("SET temp_directory=$1", [spill])
    except duckdb.Error as error:
        raise translate(error, path) from error
    return connection
