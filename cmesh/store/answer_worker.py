"""The confined process for files between nodes: makes Parquet of rows, and rows of Parquet.

A file of another machine is opened here and nowhere else, so what holds users' SQL holds this
process too: the sandbox, or the limits of the operating system, and the parent's kill. No SQL of
anybody runs in it; started like `query_worker.py`, it imports nothing of cmesh either.

Frames both ways: four bytes of length, big-endian, then JSON.
"""

import base64
import contextlib
import datetime
import decimal
import json
import math
import os
import queue
import re
import resource
import struct
import sys
import threading
from typing import Any, cast

_CELL_CHARACTERS = 1024 * 1024
_NAME_CHARACTERS = 200
_COLUMNS = 1_000
_FETCH_ROWS = 256
_EXACT_DIGITS = 15
_PIECE_BYTES = 512 * 1024

_CONFIG: Any = {
    "threads": 1,
    "async_threads": 1,
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
}
# Plain types, and lists of them: what may stand in a CAST. Whatever else is written as JSON text.
_PLAIN = re.compile(r"[A-Z]+( [A-Z]+)*(\(\d+,\d+\))?(\[\d*\])*")
_AS_TEXT = {"INTERVAL", "JSON", "BIT", "BIGNUM"}


def main() -> None:
    """Serve requests until stdin ends. Arguments: the limits as JSON, then where modules are."""
    limits = json.loads(sys.argv[1])
    sys.path += sys.argv[2:]
    if not limits["held"]:
        _confine(limits)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    import _duckdb as duckdb  # after the limits, which it must live under

    made = b""
    while True:
        request = requests.get()
        try:
            _give_time(int(limits["cpu_s"]))
            if "write" in request:
                made, rows = _written(_connect(duckdb, limits), request["write"])
                _answer({"bytes": len(made), "rows": rows})
            elif "piece" in request:
                piece = made[request["piece"] : request["piece"] + _PIECE_BYTES]
                _answer({"data": base64.b64encode(piece).decode()})
            else:
                _answer(_read(_connect(duckdb, limits), request))
        except (duckdb.Error, MemoryError, ValueError, OverflowError, OSError) as error:
            kind = type(error).__name__
            _answer({"error": kind, "message": str(error)[:1000] or kind})


def _confine(limits: dict[str, Any]) -> None:
    """Take from this process what it can take from itself, where no sandbox is around it."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        libc.unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
    for name, value in limits["resources"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _give_time(cpu_s: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _listen(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Read requests apart from the work, so that the parent's end ends that too."""
    stream = sys.stdin.buffer
    while True:
        header = stream.read(4)
        body = stream.read(struct.unpack(">I", header)[0]) if len(header) == 4 else b""
        if not body:
            os._exit(0)
        requests.put(json.loads(body))


def _connect(duckdb: Any, limits: dict[str, Any]) -> Any:
    config = {**_CONFIG, "memory_limit": f"{int(limits['memory_bytes'])}B"}
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


def _answer(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
