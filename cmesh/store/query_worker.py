"""The work of a query process: runs one user's SELECT after another on a snapshot.

Run by `confined_main.py`; like it, this imports nothing of cmesh.
"""

import datetime
import decimal
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any, cast

_CELL_CHARACTERS = 1024 * 1024
_FETCH_ROWS = 256
_EXACT_DIGITS = 15

# In this order: without local files the others can no longer be set, and without the last
# but one the attached file itself stays writable for COPY ... TO.
_LOCKDOWN = (
    "SET TimeZone='UTC'",
    "SET temp_directory=''",
    "SET max_execution_time={engine_ms}",
    "SET max_expression_depth=250",
    "SET enable_external_access=false",
    "SET disabled_filesystems='LocalFileSystem'",
    "SET lock_configuration=true",
)


def begin(
    duckdb: Any, limits: dict[str, Any], config: dict[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what opens the copy, then answers each statement."""
    connection: Any = None

    def work(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal connection
        if "open" in request:
            connection = _open(duckdb, request["open"], limits, config)
            return {"opened": True}
        if connection is None:
            raise ValueError("no copy is open")
        return _query(connection, request)

    return work


def _open(duckdb: Any, directory: str, limits: dict[str, Any], config: dict[str, Any]) -> Any:
    os.chdir(directory)
    connection = duckdb.connect("store.duckdb", read_only=True, config=config)
    for statement in _LOCKDOWN:
        connection.execute(statement.format(engine_ms=int(limits["engine_ms"])))
    return connection


def _query(connection: Any, request: dict[str, Any]) -> dict[str, Any]:
    statements = connection.extract_statements(request["sql"])
    if len(statements) != 1:
        raise ValueError(f"one statement at a time, not {len(statements)}")
    if str(statements[0].type).rpartition(".")[2] not in {"SELECT", "EXPLAIN"}:
        raise ValueError("only SELECT and EXPLAIN run here: the store is read, never changed")
    started = time.perf_counter()
    cursor = connection.cursor()
    try:
        cursor.execute(statements[0], request["parameters"])
        answer = _fetch(cursor, int(request["limit"]), int(request["bytes"]))
    finally:
        cursor.close()
    return {**answer, "elapsed_ms": round((time.perf_counter() - started) * 1000, 3)}


def _fetch(cursor: Any, limit: int, limit_bytes: int) -> dict[str, Any]:
    columns = [str(column[0]) for column in cursor.description or ()]
    types = [str(column[1]) for column in cursor.description or ()]
    rows: list[list[Any]] = []
    size, cut_by = 0, ""
    # Results stream, so what is not fetched costs nothing.
    while not cut_by and (fetched := cursor.fetchmany(min(_FETCH_ROWS, limit + 1 - len(rows)))):
        for row in fetched:
            values = [_plain(value) for value in row]
            size += len(json.dumps(values))
            if len(rows) == limit or size > limit_bytes:
                cut_by = "rows" if len(rows) == limit else "bytes"
                break
            rows.append(values)
    return {"columns": columns, "types": types, "rows": rows, "cut_by": cut_by}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    return _special(value)


def _special(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        # A double carries 15 digits exactly; more would be changed without a word.
        return float(value) if len(value.as_tuple().digits) <= _EXACT_DIGITS else str(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return _cut(value.hex())
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _CELL_CHARACTERS else text[:_CELL_CHARACTERS] + " [cut]"
