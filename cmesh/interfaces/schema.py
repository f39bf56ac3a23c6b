"""The views of an audit store, as the store itself tells of them. Pure.

Asked by SQL, in the confined process: neither the daemon nor a command loads DuckDB for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmesh.store.shown import shown
from cmesh.text import one_line

__all__ = ["SCHEMA_ROWS", "SCHEMA_SQL", "Column", "View", "known_views", "views"]

# Catalogue functions answer in the confined query process too; they read no file.
SCHEMA_SQL = """
SELECT "view", "column", "type", coalesce(means, '') AS means FROM (
  SELECT view_name AS "view", '' AS "column", '' AS "type", comment AS means, -1 AS n
  FROM duckdb_views() WHERE NOT internal
  UNION ALL
  SELECT table_name, column_name, data_type, c.comment, column_index
  FROM duckdb_columns() c JOIN duckdb_views() v ON v.view_name = c.table_name
  WHERE NOT v.internal
) ORDER BY "view", n
"""
SCHEMA_ROWS = 10_000
_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; `means` is its comment."""

    name: str
    type: str
    means: str


@dataclass(slots=True, kw_only=True)
class View:
    """A view; `means` says what a row of it is."""

    name: str
    means: str = ""
    columns: list[Column] = field(default_factory=list[Column])


def views(rows: Sequence[Sequence[object]]) -> list[View]:
    """Return the views that the rows of `SCHEMA_SQL` tell of, in their order."""
    found: dict[str, View] = {}
    for row in rows:
        view, column, kind, means = (one_line(str(cell), _CHARACTERS) for cell in row)
        one = found.setdefault(view, View(name=view))
        if column:
            one.columns.append(Column(name=column, type=kind, means=means))
        else:
            one.means = means
    return list(found.values())


def known_views() -> Mapping[str, Sequence[str]]:
    """Return the columns of each view as this version has them, without a daemon or a database."""
    return shown()
