"""The work on files between nodes: makes Parquet of rows, and rows of Parquet.

A file of another machine is opened here and nowhere else, so what holds users' SQL holds this
process too. No SQL of anybody runs in it. Run by `confined_main.py`; like it, this imports
nothing of cmesh.
"""

import base64
import contextlib
import datetime
import decimal
import json
import math
import os
import re
import threading
from collections.abc import Callable
from typing import Any, cast

_CELL_CHARACTERS = 1024 * 1024
_NAME_CHARACTERS = 200
_COLUMNS = 1_000
_FETCH_ROWS = 256
_EXACT_DIGITS = 15
_PIECE_BYTES = 512 * 1024

# Plain types, and lists of them: what may stand in a CAST. Whatever else is written as JSON text.
_PLAIN = re.compile(r"[A-Z]+( [A-Z]+)*(\(\d+,\d+\))?(\[\d*\])*")
_AS_TEXT = {"INTERVAL", "JSON", "BIT", "BIGNUM"}


def begin(
    duckdb: Any, limits: dict[str, Any], config: dict[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what makes a file, hands it over in pieces, or reads one."""
    made = b""

    def work(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal made
        if "piece" in request:
            piece = made[request["piece"] : request["piece"] + _PIECE_BYTES]
            return {"data": base64.b64encode(piece).decode()}
        connection = _connect(duckdb, limits, config)
        if "write" in request:
            made, rows = _written(connection, request["write"])
            return {"bytes": len(made), "rows": rows}
        return _read(connection, request)

    return work


def _connect(duckdb: Any, limits: dict[str, Any], config: dict[str, Any]) -> Any:
    connection = duckdb.connect(":memory:", config=config)
    for statement in (
        "SET TimeZone='UTC'",
        "SET temp_directory=''",
        f"SET max_execution_time={int(limits['engine_ms'])}",
    ):
        connection.execute(statement)
    return connection


def _written(connection: Any, table: dict[str, Any]) -> tuple[bytes, int]:
    """Return the rows as Parquet, as many of them as fit, and how many those are."""
    rows = cast("list[list[Any]]", table["rows"])
    with contextlib.closing(connection):
        _fill(connection, table["columns"], table["types"], rows)
        count, most = len(rows), int(table["bytes"])
        while True:
            made = _copied(connection, count)
            if len(made) <= most or count == 0:
                return made, count
            count = min(count - 1, int(count * most / len(made) * 0.9))


def _fill(connection: Any, columns: list[str], types: list[str], rows: list[list[Any]]) -> None:
    import _duckdb as duckdb

    names = _distinct(columns)
    lists = [[_text(row[at]) for row in rows] for at in range(len(columns))]
    values = ", ".join(f"unnest(${at}::VARCHAR[]) AS c{at}" for at in range(1, len(lists) + 1))
    connection.execute(f"CREATE TABLE said AS SELECT {values}", lists)
    casts: list[str] = []
    for at, (name, kind) in enumerate(zip(names, types, strict=True), 1):
        typed = f"c{at}"
        for wish in _casts(typed, kind):
            # What was made readable for JSON may not read back: then the column stays text.
            with contextlib.suppress(duckdb.Error):
                connection.execute(f"SELECT count({wish}) FROM said")  # noqa: S608 - from `_PLAIN`
                typed = wish
                break
        quoted = name.replace('"', '""')
        casts.append(f'{typed} AS "{quoted}"')
    listed = ", ".join(casts)
    connection.execute(f"CREATE TABLE answer AS SELECT {listed} FROM said")  # noqa: S608 - above


def _casts(column: str, kind: str) -> list[str]:
    """Return the types that a column may get, the best first."""
    if kind == "BLOB":
        return [f"unhex({column})"]
    if kind in {"HUGEINT", "UHUGEINT"}:  # a sum is one; in Parquet it would be a double
        return [f"CAST({column} AS BIGINT)", f"CAST({column} AS DECIMAL(38, 0))"]
    if not _PLAIN.fullmatch(kind) or kind in _AS_TEXT or kind.startswith("BLOB"):
        return []
    if kind.endswith("]"):
        return [f"CAST(CAST({column} AS JSON) AS {kind})"]
    return [f"CAST({column} AS {kind})"]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def _distinct(columns: list[str]) -> list[str]:
    """Return the names, later ones of those that are equal, case aside, with a number behind."""
    names: list[str] = []
    taken: set[str] = set()
    for column in columns:
        name, number = column or "column", 1
        while name.lower() in taken:
            name, number = f"{column}_{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _copied(connection: Any, count: int) -> bytes:
    """Return the first rows as Parquet, through a pipe: this process may write no file."""
    end, start = os.pipe()
    parts: list[bytes] = []

    def drain() -> None:
        while part := os.read(end, 65536):
            parts.append(part)

    reading = threading.Thread(target=drain)
    reading.start()
    try:
        connection.execute(
            f"COPY (SELECT * FROM answer LIMIT {count}) TO '/dev/fd/{start}'"  # noqa: S608 - numbers
            " (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
        )
    finally:
        os.close(start)
        reading.join()
        os.close(end)
    return b"".join(parts)


def _read(connection: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of a file that anybody may have made."""
    with contextlib.closing(connection):
        limit = int(request["limit"])
        connection.execute(
            f"SELECT * FROM read_parquet(?, hive_partitioning = false) LIMIT {limit + 1}",  # noqa: S608
            [str(request["read"])],
        )
        if len(connection.description) > _COLUMNS:
            raise ValueError(f"the file has more than {_COLUMNS} columns")
        return _fetch(connection, limit, int(request["bytes"]))


def _fetch(cursor: Any, limit: int, limit_bytes: int) -> dict[str, Any]:
    columns = [str(column[0])[:_NAME_CHARACTERS] for column in cursor.description]
    types = [str(column[1])[:_NAME_CHARACTERS] for column in cursor.description]
    rows: list[list[Any]] = []
    size, truncated = 0, False
    while not truncated and (fetched := cursor.fetchmany(min(_FETCH_ROWS, limit + 1 - len(rows)))):
        for row in fetched:
            values = [_value(value) for value in row]
            size += len(json.dumps(values))
            if len(rows) == limit or size > limit_bytes:
                truncated = True
                break
            rows.append(values)
    return {"columns": columns, "types": types, "rows": rows, "truncated": truncated}


def _value(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple) and depth < 32:
        return [_value(item, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, dict) and depth < 32:
        whole = cast("dict[Any, Any]", value)
        return {str(key): _value(item, depth + 1) for key, item in whole.items()}
    if isinstance(value, decimal.Decimal):
        # A double carries 15 digits exactly; more would be changed without a word.
        return float(value) if len(value.as_tuple().digits) <= _EXACT_DIGITS else str(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    text = value.hex() if isinstance(value, bytes | bytearray) else str(cast("object", value))
    return text if len(text) <= _CELL_CHARACTERS else text[:_CELL_CHARACTERS] + " [cut]"
