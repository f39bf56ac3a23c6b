"""Bringing a database file to the schema this code speaks, one transaction per step.

A step that was released is never edited: a later one follows. Never downgrades.
"""

from collections.abc import Callable
from importlib import resources

import _duckdb as duckdb

from cmesh import __version__
from cmesh.errors import SchemaTooNew
from cmesh.store.shown import VIEWS

__all__ = ["MIGRATIONS", "apply_all", "describe", "migrate", "schema_version"]

MIGRATIONS: tuple[str, ...] = (
    "schema.sql",
    "follow.sql",
    "receipts.sql",
    "connections.sql",
    "steps.sql",
    "patches.sql",
    "budgets.sql",
    "selection.sql",
    "artifacts.sql",
    "evidence.sql",
    "bases.sql",
    "changes.sql",
    "answers.sql",
    "questions.sql",
    "releases.sql",
    "peer_names.sql",
    "traces.sql",
    "forgetting.sql",
    "packing.sql",
)
"""Files of SQL in this folder; the first makes version 1."""


def schema_version(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the version of an open database; 0 for an empty one."""
    made = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'schema_version'"
    ).fetchone()
    if not made or not made[0]:
        return 0
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def migrate(
    connection: duckdb.DuckDBPyConnection, *, backup: Callable[[int], None] | None = None
) -> list[int]:
    """Apply what is missing and return the versions applied.

    `backup` is called once, with the old version, before an existing store is changed.

    Raises:
        SchemaTooNew: a newer cmesh wrote the file; nothing was changed.
    """
    have = schema_version(connection)
    if have > len(MIGRATIONS):
        raise SchemaTooNew(
            f"the store has schema {have}, this cmesh ({__version__}) knows {len(MIGRATIONS)}"
        )
    steps = list(enumerate(MIGRATIONS, start=1))[have:]
    if steps and have and backup:
        backup(have)
    for version, name in steps:
        # The views are those of the newest schema, so they come with its step only.
        views = VIEWS if version == len(MIGRATIONS) else ()
        _apply(connection, version, "".join(map(_text, (name, *views))))
    if steps:
        # Replaying a WAL that alters tables has failed in several DuckDB releases.
        connection.execute("CHECKPOINT")
    return [version for version, _ in steps]


def describe() -> list[tuple[str, str, str, str]]:
    """Return (view, column, type, comment) of every view for people; about 50 ms.

    A view's own comment comes first, with an empty column and type.
    """
    with duckdb.connect(":memory:", config={"threads": 1, "async_threads": 1}) as connection:
        apply_all(connection)
        rows = connection.execute(
            "SELECT view_name, '', '', comment, view_oid, 0 FROM duckdb_views() WHERE NOT internal"
            " UNION ALL SELECT table_name, column_name, data_type, c.comment, v.view_oid,"
            " column_index FROM duckdb_columns() c JOIN duckdb_views() v"
            " ON v.view_name = c.table_name WHERE NOT v.internal ORDER BY 5, 6"
        ).fetchall()
    return [(str(v), str(c), str(t), str(comment or "")) for v, c, t, comment, *_ in rows]


def apply_all(connection: duckdb.DuckDBPyConnection) -> None:
    """Make tables and views of the newest schema in an empty one, without the books of versions."""
    for name in (*MIGRATIONS, *VIEWS):
        connection.execute(_text(name))


def _apply(connection: duckdb.DuckDBPyConnection, version: int, sql: str) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL,"
            " applied_at TIMESTAMPTZ NOT NULL, app_version VARCHAR NOT NULL)"
        )
        connection.execute(sql)
        connection.execute(
            "INSERT INTO schema_version VALUES ($1, now(), $2)", [version, __version__]
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _text(name: str) -> str:
    return resources.files("cmesh.store").joinpath(name).read_text("utf-8")
