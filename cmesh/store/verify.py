"""Checking the log: the chain of hashes, and the typed rows against what the chain covers.

The chain alone would not notice a changed column of a typed row, nor a cut-off end: the
first is compared here, the second with the head. Only reads.
"""

from cmesh.store.database import Reader
from cmesh.store.head import Head
from cmesh.store.records import Verification

__all__ = ["verify"]

_NOT_COVERED = frozenset({"seq", "ts", "salt"})
_TEXTS = {
    "task_row": frozenset({"prompt"}),
    "event_row": frozenset({"text", "data"}),
    "result_row": frozenset({"text", "error"}),
}


def verify(cursor: Reader, head: Head) -> Verification:
    """Check all rows; `bad_seq` is the first one that does not fit. About 1 s per million rows."""
    rows = _one(cursor, "SELECT count(*) FROM log") or 0
    bad = [_one(cursor, "SELECT min(seq) FROM chain_bad")]
    bad += [_one(cursor, statement) for statement in _comparisons(cursor)]
    found = [seq for seq in bad if seq is not None]
    last = cursor.execute("SELECT max(seq), arg_max(h, seq) FROM log").fetchone()
    # A commit may have come in since the head was read; the row it names must be there.
    at_head = cursor.execute("SELECT h FROM log WHERE seq = $1", [head.seq]).fetchone()
    head_ok = bool(last) and (head.seq == 0 or (at_head is not None and at_head[0] == head.hash))
    return Verification(rows=rows, bad_seq=min(found) if found else None, head_ok=head_ok)


def _comparisons(cursor: Reader) -> list[str]:
    """Return, for each typed table, a query for the first row that differs from its canon."""
    columns = cursor.execute(
        "SELECT c.table_name, c.column_name, c.data_type FROM duckdb_columns() c"
        " JOIN duckdb_tables() t USING (table_oid) WHERE NOT t.internal"
        " AND c.table_name LIKE '%\\_row' ESCAPE '\\' AND c.table_name <> 'store_row'"
    ).fetchall()
    tables: dict[str, list[str]] = {}
    for table, column, kind in columns:
        if column in _TEXTS.get(table, ()):
            tables.setdefault(table, []).append(_text_differs(column))
        elif column not in _NOT_COVERED:
            tables.setdefault(table, []).append(_value_differs(column, kind))
    joined = [
        f"SELECT min(t.seq) FROM {table} t JOIN log l USING (seq) WHERE {' OR '.join(tests)}"  # noqa: S608
        for table, tests in tables.items()
    ]
    # Both directions: a typed row without a log row, and a log row whose typed row is gone.
    union = " UNION ALL ".join(f"SELECT seq FROM {table}" for table in tables)  # noqa: S608
    alone = f"SELECT min(coalesce(l.seq, t.seq)) FROM log l FULL JOIN ({union}) t USING (seq)"  # noqa: S608
    return [*joined, f"{alone} WHERE l.seq IS NULL OR t.seq IS NULL"]


def _value_differs(column: str, kind: str) -> str:
    told = f"json_extract_string(l.canon, '$.{column}')"
    match kind:
        case "TIMESTAMP WITH TIME ZONE":
            return f"epoch_us(t.{column}) IS DISTINCT FROM {told}::BIGINT"
        case "DOUBLE":
            return f"t.{column} IS DISTINCT FROM {told}::DOUBLE"
        case _:
            return f"t.{column}::VARCHAR IS DISTINCT FROM {told}"


def _text_differs(column: str) -> str:
    told = f"json_extract_string(l.canon, '$.{column}_sha256')"
    made = f"sha256(t.salt || ':{column}:' || t.{column}::VARCHAR)"
    return f"(t.{column} IS NOT NULL AND {made} IS DISTINCT FROM {told})"


def _one(cursor: Reader, statement: str) -> int | None:
    row = cursor.execute(statement).fetchone()
    return None if row is None else row[0]
