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

__all__ = ["Table", "rebuilt", "tables"]

_OF_THE_LOG = {
    "kind": "system.main.to_json(l.kind)",
    "seq": "l.seq",
    "task_id": "coalesce(system.main.to_json(l.task_id::VARCHAR)::VARCHAR, 'null')",
    "ts": "system.main.epoch_us(l.ts)",
}
"""Keys that the log has as columns too; a typed column of that name must be equal."""

_COMMA = ", ','"


@dataclass(frozen=True, slots=True)
class Table:
    """A typed table.

    Attributes:
        select: gives the columns as Python compares them.
        rebuilt: looks at many rows together (`rebuilt`).
    """

    select: str
    rebuilt: str


def tables(cursor: Reader) -> dict[str, Table]:
    """Return the tables that rows of the log stand for, by name.

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
    return {table: Table(_select(table, of), rebuilt(table, of)) for table, of in kinds.items()}


def rebuilt(table: str, columns: Mapping[str, str]) -> str:
    """Return a SELECT that looks at a table's rows with numbers from `$1` to `$2`.

    Its one row: how many there are, how many numbers they have, and the numbers of those that
    were not found as they were written. `$3` is the node's id as JSON.

    Args:
        table: one of those that the views are made of.
        columns: their types, by name.
    """
    same = [f"t.{key} IS NOT DISTINCT FROM l.{key}" for key in _OF_THE_LOG if key in columns]
    if "task_id" not in columns:
        same.append("l.task_id IS NULL")
    hidden = sorted(ERASABLE.get(table, frozenset[str]()) & columns.keys())
    if "salt" in columns:
        # A salt without a text that it hides could be changed, so there must be none.
        any_text = " OR ".join(f"NOT {_empty(column)}" for column in hidden)
        same.append(f"(t.salt IS NULL OR {any_text})")
    return (
        "SELECT system.main.count(*), system.main.count(DISTINCT seq),"  # noqa: S608  # our names
        " system.main.list(seq) FILTER (NOT as_written) FROM ("
        f"SELECT t.seq, coalesce({' AND '.join(same)} AND l.canon = {_text(table, columns)}, false)"
        f" AS as_written FROM {table} t"
        " LEFT JOIN (SELECT * FROM log WHERE seq BETWEEN $1 AND $2) l ON l.seq = t.seq"
        " WHERE t.seq BETWEEN $1 AND $2)"
    )


def _text(table: str, columns: Mapping[str, str]) -> str:
    """Return the expression of a row's canonical text, as `Row.canon` makes it."""
    keys = {"node": "$3::VARCHAR", "table": f"'\"{table}\"'", "v": f"'{SALTED_SINCE}'"}
    parts = {key: _pair(key, value) for key, value in (keys | _OF_THE_LOG).items()}
    if "task_id" not in columns:
        del parts["task_id"]
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
        clear = f"t.salt IS NULL OR {_empty(column)}"
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
    return f"(coalesce(t.\"{column}\"::VARCHAR, '') IN ('', '{{}}', '[]'))"


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


def _select(table: str, columns: Mapping[str, str]) -> str:
    chosen = ", ".join(_as_compared(column, kind) for column, kind in columns.items())
    return f"SELECT {chosen} FROM {table}"  # noqa: S608  # names of our own schema


def _as_compared(column: str, kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f'epoch_us("{column}") AS "{column}"'
    return f'"{column}"::VARCHAR AS "{column}"' if kind in {"UUID", "JSON"} else f'"{column}"'
