"""The process that copies a database row by row into a new file, and looks whether all is there.

It lives no longer than who started it: one that went on would keep the next daemon from its file.
"""

import os
import sys
import threading
from pathlib import Path

import _duckdb as duckdb

from cmesh.errors import StoreError
from cmesh.store.database_worker import lock_database
from cmesh.text import one_line

__all__ = ["main"]


def main(source: str, target: str) -> None:
    """Copy; what goes wrong is told on stderr, with status 1. Ends with its standard input."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.umask(0o077)
    try:
        # The next daemon's database process waits for this lock, as it does for one of its kind.
        lock = lock_database(Path(source).parent)
        _copy(source, target)
        lock.release()
    except (duckdb.Error, StoreError, ValueError, OSError) as error:
        sys.stderr.write(one_line(str(error)))
        sys.exit(1)


def _end_with_input() -> None:
    os.read(0, 1)  # nobody writes: it returns once the other end is closed
    os._exit(1)


def _copy(source: str, target: str) -> None:
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "async_threads": 1,
        "memory_limit": "2GB",
        "temp_directory": "",
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute(f"ATTACH {_quoted(source)} AS old (READ_ONLY)")
        connection.execute(f"ATTACH {_quoted(target)} AS new")
        connection.execute("COPY FROM DATABASE old TO new")
        connection.execute("CHECKPOINT new")
        counted = {name: _counts(connection, name) for name in ("old", "new")}
        if counted["old"] != counted["new"]:
            raise ValueError("the new file has not all rows of the old one")
        connection.execute("DETACH new")
    if Path(f"{target}.wal").exists():
        raise ValueError("the new file could not be closed")


def _counts(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, object]:
    tables = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = $1", [name]
    ).fetchall()
    views = connection.execute(
        "SELECT count(*) FROM duckdb_views() WHERE database_name = $1 AND NOT internal", [name]
    ).fetchone()
    found: dict[str, object] = {"": views}
    for (table,) in tables:
        statement = f'SELECT count(*) FROM {name}."{table}"'  # noqa: S608  # names of the catalogue
        found[str(table)] = connection.execute(statement).fetchone()
    top = connection.execute(f"SELECT max(seq), arg_max(h, seq) FROM {name}.log")  # noqa: S608
    found["head"] = top.fetchone()
    return found


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"
