"""Whether a database is made as this code makes it: a look at its catalogue, in the file's process.

People and agents ask views. One that was replaced would tell them something else than the
rows say, and a macro may stand in for any function. Only reads.
"""

from functools import cache
from importlib import resources

import _duckdb as duckdb

from cmesh.store.exchange import Reader
from cmesh.store.migrations import MIGRATIONS
from cmesh.store.shown import VIEWS

__all__ = ["foreign"]

# By their full names: a macro of the file cannot stand in for those.
_MADE = """
SELECT 'view', view_name, sql FROM system.main.duckdb_views() WHERE NOT internal
UNION ALL
SELECT 'table', table_name, sql FROM system.main.duckdb_tables() WHERE NOT internal
"""
_BY_OTHERS = """
SELECT 'function', function_name FROM system.main.duckdb_functions() WHERE NOT internal
UNION ALL
SELECT 'type', type_name FROM system.main.duckdb_types() WHERE NOT internal
"""
_OWN_BOOKS = frozenset({"schema_version"})


def foreign(cursor: Reader) -> str:
    """Say what of a migrated database's catalogue is not cmesh's; empty = all is. About 50 ms.

    A view or a table that somebody added beside cmesh's is no matter.
    """
    others = cursor.execute(_BY_OTHERS).fetchall()
    if others:
        kind, name = others[0]
        return f"the database has a {kind} `{name}` that cmesh did not make"
    there = {(kind, name): sql for kind, name, sql in cursor.execute(_MADE).fetchall()}
    for (kind, name), sql in _expected().items():
        if (kind, name) not in there:
            return f"the {kind} `{name}` is missing"
        if there[kind, name] != sql and name not in _OWN_BOOKS:
            return f"the {kind} `{name}` is not as cmesh makes it"
    return ""


@cache
def _expected() -> dict[tuple[str, str], str]:
    with duckdb.connect(":memory:", config={"threads": 1, "async_threads": 1}) as connection:
        for name in (*MIGRATIONS, *VIEWS):
            text = resources.files("cmesh.store").joinpath(name).read_text("utf-8")
            connection.execute(text)
        return {(kind, name): sql for kind, name, sql in connection.execute(_MADE).fetchall()}
