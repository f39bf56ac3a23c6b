"""The work of keeping a part of a store: some rows of a copy, in a database of its own.

No SQL of anybody runs in it, and no SQL of anybody ever sees the copy: a query's process gets the
part alone. Run by `confined_main.py`; like it, this imports nothing of cmesh.
"""

import contextlib
from collections.abc import Callable
from typing import Any


def begin(
    duckdb: Any, _limits: dict[str, Any], config: dict[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what adds rows to a part."""

    def work(request: dict[str, Any]) -> dict[str, Any]:
        # Closed before it is answered: DuckDB holds a lock on the file, and a query waits to read.
        with contextlib.closing(_connect(duckdb, request, config)) as connection:
            return _extend(duckdb, connection, request)

    return work


def _connect(duckdb: Any, request: dict[str, Any], config: dict[str, Any]) -> Any:
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone='UTC'")
    connection.execute(f"SET temp_directory={_text(request['scratch'] + '/spill')}")
    connection.execute(f"ATTACH {_text(request['scratch'] + '/store.duckdb')} AS own")
    connection.execute(f"ATTACH {_text(request['whole'] + '/store.duckdb')} AS whole (READ_ONLY)")
    return connection


def _extend(duckdb: Any, connection: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Add some rows after a number; say up to which, and which is the last one there is.

    `stale` when rows before it have changed: then none is added.
    """
    after = int(request["after"])
    changed = "SELECT count(*) FROM whole.audit_row WHERE kind = $1 AND seq > $2"
    if after >= 0 and connection.execute(changed, [request["changed"], after]).fetchone()[0]:
        return {"stale": True}
    [top] = connection.execute("SELECT coalesce(max(seq), 0) FROM whole.log").fetchone()
    upto = min(int(top), max(after, 0) + int(request["most"]))
    connection.begin()
    for table, columns in _columns(connection).items():
        shown = request["shown"].get(table, ())
        said = ", ".join(
            f'"{one}"' if one in shown else f'CASE WHEN false THEN "{one}" END AS "{one}"'
            for one in columns  # one that is not shown is there, empty and of the same type
        )
        where = request["rows"].get(table, "false")
        rows = f"SELECT {said} FROM whole.{table} WHERE ({where})"  # noqa: S608 - the daemon's words
        if "seq" in columns:
            rows += f" AND seq > {after} AND seq <= {upto}"
        elif after >= 0:
            continue
        into = "INSERT INTO own.{} {}" if after >= 0 else "CREATE TABLE own.{} AS {}"
        connection.execute(into.format(table, rows))
    connection.commit()
    if after < 0:  # apart: one that fails would end the transaction
        _make_views(duckdb, connection)
    # The whole of it in one file: what is kept is that file alone.
    connection.execute("DETACH whole")
    connection.execute("CHECKPOINT own")
    return {"seq": upto, "top": int(top)}


def _columns(connection: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'whole'"
        " AND table_name IN (SELECT table_name FROM duckdb_tables() WHERE database_name = 'whole')"
        " ORDER BY table_name, column_index"
    ).fetchall():
        found.setdefault(table, []).append(column)
    return found


def _make_views(duckdb: Any, connection: Any) -> None:
    views = "SELECT sql FROM duckdb_views() WHERE database_name = 'whole' AND NOT internal"
    texts = [text for (text,) in connection.execute(views).fetchall()]
    connection.execute("USE own")
    while texts:  # one may be made of others, which then come first
        left = [text for text in texts if not _made(duckdb, connection, text)]
        if len(left) == len(texts):
            raise ValueError("the views cannot be made")
        texts = left
    connection.execute("USE memory")


def _made(duckdb: Any, connection: Any, text: str) -> bool:
    try:
        connection.execute(text)
    except duckdb.CatalogException:
        return False
    return True


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
