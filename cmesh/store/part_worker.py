"""The confined process that keeps a part of a store: some rows of a copy, in a database of its own.

No SQL of anybody runs in it, and no SQL of anybody ever sees the copy: a query's process gets the
part alone. Started like `query_worker.py`, it imports nothing of cmesh either.

Frames both ways: four bytes of length, big-endian, then JSON.
"""

import contextlib
import json
import os
import queue
import resource
import struct
import sys
import threading
from typing import Any

_CONFIG: Any = {
    "threads": 1,
    "async_threads": 1,
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
}


def main() -> None:
    """Serve requests until stdin ends. Arguments: the limits as JSON, then where modules are."""
    limits = json.loads(sys.argv[1])
    sys.path += sys.argv[2:]
    if not limits["held"]:
        _confine(limits)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    import _duckdb as duckdb  # after the limits, which it must live under

    while True:
        request = requests.get()
        try:
            with contextlib.closing(_connect(duckdb, request, limits)) as connection:
                answer = _extend(duckdb, connection, request)
            # Not before the file is let go: DuckDB holds a lock on it, and a query waits to read.
            _answer(answer)
        except (duckdb.Error, MemoryError, ValueError, OverflowError) as error:
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


def _listen(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Read requests apart from the work, so that the parent's end ends that too."""
    stream = sys.stdin.buffer
    while True:
        header = stream.read(4)
        body = stream.read(struct.unpack(">I", header)[0]) if len(header) == 4 else b""
        if not body:
            os._exit(0)
        requests.put(json.loads(body))


def _connect(duckdb: Any, request: dict[str, Any], limits: dict[str, Any]) -> Any:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + int(limits["cpu_s"])
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    config = {**_CONFIG, "memory_limit": f"{int(limits['memory_bytes'])}B"}
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone='UTC'")
    connection.execute(f"SET temp_directory={_text(request['scratch'] + '/spill')}")
    connection.execute(f"ATTACH {_text(request['scratch'] + '/store.duckdb')} AS own")
    connection.execute(f"ATTACH {_text(request['whole'] + '/store.duckdb')} AS whole (READ_ONLY)")
    return connection


def _extend(duckdb: Any, connection: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Add some rows after a number; say up to which, and which is the last one there is.

    `stale` when rows before it have changed: then none is added.
    """
    after = int(request["after"])
    changed = "SELECT count(*) FROM whole.audit_row WHERE kind = $1 AND seq > $2"
    if after >= 0 and connection.execute(changed, [request["changed"], after]).fetchone()[0]:
        return {"stale": True}
    [top] = connection.execute("SELECT coalesce(max(seq), 0) FROM whole.log").fetchone()
    upto = min(int(top), max(after, 0) + int(request["most"]))
    connection.begin()
    for table, columns in _columns(connection).items():
        shown = request["shown"].get(table, ())
        said = ", ".join(
            f'"{one}"' if one in shown else f'CASE WHEN false THEN "{one}" END AS "{one}"'
            for one in columns  # one that is not shown is there, empty and of the same type
        )
        where = request["rows"].get(table, "false")
        rows = f"SELECT {said} FROM whole.{table} WHERE ({where})"  # noqa: S608 - the daemon's words
        if "seq" in columns:
            rows += f" AND seq > {after} AND seq <= {upto}"
        elif after >= 0:
            continue
        into = "INSERT INTO own.{} {}" if after >= 0 else "CREATE TABLE own.{} AS {}"
        connection.execute(into.format(table, rows))
    connection.commit()
    if after < 0:  # apart: one that fails would end the transaction
        _make_views(duckdb, connection)
    # The whole of it in one file: what is kept is that file alone.
    connection.execute("DETACH whole")
    connection.execute("CHECKPOINT own")
    return {"seq": upto, "top": int(top)}


def _columns(connection: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'whole'"
        " AND table_name IN (SELECT table_name FROM duckdb_tables() WHERE database_name = 'whole')"
        " ORDER BY table_name, column_index"
    ).fetchall():
        found.setdefault(table, []).append(column)
    return found


def _make_views(duckdb: Any, connection: Any) -> None:
    views = "SELECT sql FROM duckdb_views() WHERE database_name = 'whole' AND NOT internal"
    texts = [text for (text,) in connection.execute(views).fetchall()]
    connection.execute("USE own")
    while texts:  # one may be made of others, which then come first
        left = [text for text in texts if not _made(duckdb, connection, text)]
        if len(left) == len(texts):
            raise ValueError("the views cannot be made")
        texts = left
    connection.execute("USE memory")


def _made(duckdb: Any, connection: Any, text: str) -> bool:
    try:
        connection.execute(text)
    except duckdb.CatalogException:
        return False
    return True


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _answer(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
