"""The confined query process: runs one user's SELECT after another on a snapshot.

Started with `python -I -S`, an empty environment and one socket; imports nothing of cmesh, so
that nothing of it is there to reach. The engine's own settings are no boundary: the sandbox
and the limits of the operating system around this process, and the parent's kill, are.

Frames both ways: four bytes of length, big-endian, then JSON.
"""

import contextlib
import datetime
import decimal
import json
import math
import os
import queue
import resource
import struct
import sys
import threading
import time
from typing import Any, cast

_CELL_CHARACTERS = 1024 * 1024
_FETCH_ROWS = 256
_EXACT_DIGITS = 15

# What an error of the engine says about the limit that was reached; the parent has the figures.
_LIMITS = {"InterruptException": "time", "OutOfMemoryException": "memory", "MemoryError": "memory"}

_CONFIG: Any = {
    "threads": 1,
    "async_threads": 1,
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
}
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


def main() -> None:
    """Serve requests until stdin ends. Arguments: the limits as JSON, then where modules are."""
    limits = json.loads(sys.argv[1])
    sys.path += sys.argv[2:]
    if not limits["held"]:
        _confine(limits)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    import _duckdb as duckdb  # after the limits, which it must live under

    connection: Any = None
    while True:
        request = requests.get()
        try:
            if "open" in request:
                connection = _open(duckdb, request["open"], limits)
                _answer({"opened": True})
            elif connection is not None:
                _answer(_query(connection, request, int(limits["cpu_s"])))
        except (duckdb.Error, MemoryError, ValueError, OverflowError) as error:
            kind = type(error).__name__
            said = str(error)[:4000] or kind
            _answer({"error": kind, "message": said, "limit": _LIMITS.get(kind, "")})


def _confine(limits: dict[str, Any]) -> None:
    """Take from this process what it can take from itself, where no sandbox is around it."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        # No network and no rights over other processes, where the kernel lets us.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        libc.unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
    for name, value in limits["resources"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (value, value))


def _listen(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Read requests apart from the queries, so that the parent's end ends a query too."""
    stream = sys.stdin.buffer
    while True:
        header = stream.read(4)
        body = stream.read(struct.unpack(">I", header)[0]) if len(header) == 4 else b""
        if not body:
            os._exit(0)
        requests.put(json.loads(body))


def _open(duckdb: Any, directory: str, limits: dict[str, Any]) -> Any:
    os.chdir(directory)
    config = {**_CONFIG, "memory_limit": f"{int(limits['memory_bytes'])}B"}
    connection = duckdb.connect("store.duckdb", read_only=True, config=config)
    for statement in _LOCKDOWN:
        connection.execute(statement.format(engine_ms=int(limits["engine_ms"])))
    return connection


def _query(connection: Any, request: dict[str, Any], cpu_s: int) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
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


def _answer(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
