"""The typed tables as a check reads them: row by row, and many at a time.

Many at a time, the canonical text of each row is built anew from the columns, in SQL.

A row whose text comes out the same is as it was written, since every column is in the text, or
its digest is. A row whose text does not (an older one, one with an erased text) is no finding:
it is looked at by itself. Right only where every function is DuckDB's own (`schema.foreign`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cmesh.errors import StoreError
from cmesh.store.exchange import Reader
from cmesh.store.texts import ERASABLE, SALTED_SINCE

__all__ = ["Columns", "Tables", "rebuilt", "tables"]

_OF_THE_LOG = ("kind", "seq", "task_id", "ts")
"""Keys that the log has as columns too; a typed column of that name must be equal."""

_COMMA = ", ','"

Columns = Mapping[str, str]
"""The columns of a table and their types, by name, in their order."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The typed tables.

    Attributes:
        selects: for each table a SELECT of its columns as Python compares them.
        counted: of each table with numbers from `$1` to `$2`: its name, rows, and numbers.
        rebuilt: looks at many rows together (`rebuilt`).
    """

    selects: Mapping[str, str]
    counted: str
    rebuilt: str


def tables(cursor: Reader) -> Tables:
    """Return the tables that rows of the log stand for.

    Raises:
        StoreError: it is no database of cmesh.
    """
    columns = cursor.execute(
        "SELECT c.table_name, c.column_name, c.data_type FROM system.main.duckdb_columns() c"
        " JOIN system.main.duckdb_tables() t USING (table_oid) WHERE NOT t.internal"
        " AND ends_with(c.table_name, '_row') AND c.table_name <> 'store_row'"
        " ORDER BY c.table_name, c.column_index"
    ).fetchall()
    kinds: dict[str, dict[str, str]] = {}
    for table, column, kind in columns:
        kinds.setdefault(str(table), {})[str(column)] = str(kind)
    if "task_row" not in kinds:
        raise StoreError("the database has no tables of cmesh")
    return Tables(
        selects={table: _select(table, of) for table, of in kinds.items()},
        counted=" UNION ALL ".join(
            f"SELECT '{table}', system.main.count(*), system.main.count(DISTINCT seq)"  # noqa: S608
            f" FROM {table} WHERE seq BETWEEN $1 AND $2"
            for table in kinds
        ),
        rebuilt=rebuilt(kinds),
    )


def rebuilt(tables: Mapping[str, Columns]) -> str:
    """Return a SELECT of the rows from `$1` to `$2` that were not found as they were written.

    It gives one list of their numbers, NULL for none; `$3` is the node's id as JSON. All tables
    are looked at in one go, since reading the log's texts costs the same for each.
    """
    texts = " UNION ALL ".join(_texts(table, columns) for table, columns in tables.items())
    # Without GROUP BY: DuckDB takes three times as long for lists of groups.
    return (
        "SELECT system.main.list(t.seq) FILTER (NOT coalesce(t.fit AND l.kind = t.kind"  # noqa: S608  # our names
        " AND l.ts = t.ts AND l.task_id IS NOT DISTINCT FROM t.task_id AND l.canon = t.text, false))"
        f" FROM ({texts}) t"
        " LEFT JOIN (SELECT * FROM log WHERE seq BETWEEN $1 AND $2) l ON l.seq = t.seq"
    )


def _texts(table: str, columns: Columns) -> str:
    """Return a SELECT of each row's canonical text, and of what the log has of it as columns."""
    hidden = sorted(ERASABLE.get(table, frozenset[str]()) & columns.keys())
    fit, flags = "true", ""
    if "salt" in columns and hidden:
        flags = "".join(
            f', (salt IS NULL OR {_empty(column)}) AS "{column} clear"' for column in hidden
        )
        # A salt without a text that it hides could be changed, so there must be none.
        fit = " OR ".join(["t.salt IS NULL", *(f'NOT t."{column} clear"' for column in hidden)])
    task_id = "t.task_id" if "task_id" in columns else "NULL::UUID"
    return (
        f"SELECT t.seq, t.ts, {_kind(table, columns)} AS kind, {task_id} AS task_id,"  # noqa: S608
        f" ({fit}) AS fit, {_text(table, columns)} AS text"
        f" FROM (SELECT *{flags} FROM {table} WHERE seq BETWEEN $1 AND $2) t"
    )


def _kind(table: str, columns: Columns) -> str:
    # A table of rows of one kind is named after it.
    return "t.kind" if "kind" in columns else f"'{table.removesuffix('_row')}'"


def _text(table: str, columns: Columns) -> str:
    """Return the expression of a row's canonical text, as `Row.canon` makes it."""
    keys = {
        "kind": f"system.main.to_json({_kind(table, columns)})",
        "node": "$3::VARCHAR",
        "seq": "t.seq",
        "table": f"'\"{table}\"'",
        "ts": "system.main.epoch_us(t.ts)",
        "v": f"'{SALTED_SINCE}'",
    }
    if "task_id" in columns:
        keys["task_id"] = "coalesce(system.main.to_json(t.task_id::VARCHAR)::VARCHAR, 'null')"
    parts = {key: _pair(key, value) for key, value in keys.items()}
    hidden = ERASABLE.get(table, frozenset[str]()) if "salt" in columns else frozenset[str]()
    for column, kind in columns.items():
        if column in {"salt", *_OF_THE_LOG}:
            continue
        plain = _pair(column, f"coalesce({_json(column, kind)}, 'null')")
        if column not in hidden:
            parts[column] = plain
            continue
        # Where there is a salt, its digest stands for a text that tells something; each has its
        # own place in the order of keys.
        clear = f't."{column} clear"'
        parts[column] = f"CASE WHEN {clear} THEN system.main.concat({plain}) ELSE '' END"
        hashed = f"system.main.concat(t.salt, ':{column}:', t.\"{column}\"::VARCHAR)"
        digest = _pair(f"{column}_sha256", f"'\"', system.main.sha256({hashed}), '\"'")
        of_digest = f"CASE WHEN {clear} THEN '' ELSE system.main.concat({digest}) END"
        parts[f"{column}_sha256"] = of_digest
    ordered = sorted(parts)
    # One function of many parts: each further one would copy what it is given. Only where a part
    # may be missing at the end must the last comma be looked for.
    text = ", ".join(parts[key] for key in ordered)
    if ordered[-1].removesuffix("_sha256") not in hidden:
        return f"system.main.concat('{{', {text.removesuffix(_COMMA)}, '}}')"
    return f"system.main.concat('{{', system.main.rtrim(system.main.concat({text}), ','), '}}')"


def _pair(key: str, value: str) -> str:
    return f"'\"{key}\":', {value}{_COMMA}"


def _empty(column: str) -> str:
    # As `texts.is_empty`.
    return f"(coalesce(\"{column}\"::VARCHAR, '') IN ('', '{{}}', '[]'))"


def _json(column: str, kind: str) -> str:
    """Return the expression of a value in the text, NULL where it is one."""
    match kind:
        case "TIMESTAMP WITH TIME ZONE":
            return f'system.main.epoch_us(t."{column}")::VARCHAR'
        case "BIGINT" | "INTEGER" | "BOOLEAN":
            return f't."{column}"::VARCHAR'
        case "DOUBLE":
            # A text in the chain, by Python; where DuckDB writes it otherwise, it is no match.
            return f"'\"' || t.\"{column}\"::VARCHAR || '\"'"
        case _:
            return f'system.main.to_json(t."{column}"::VARCHAR)::VARCHAR'


def _select(table: str, columns: Columns) -> str:
    chosen = ", ".join(_as_compared(column, kind) for column, kind in columns.items())
    return f"SELECT {chosen} FROM {table}"  # noqa: S608  # names of our own schema


def _as_compared(column: str, kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f'epoch_us("{column}") AS "{column}"'
    return f'"{column}"::VARCHAR AS "{column}"' if kind in {"UUID", "JSON"} else f'"{column}"'
