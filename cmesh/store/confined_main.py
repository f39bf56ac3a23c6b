"""The program of every confined process: it answers requests with the work of one file.

Started with `python -I -S`, an empty environment and one socket; neither it nor that file imports
anything of cmesh, so that nothing of it is there to reach. The engine's own settings are no
boundary: the sandbox and the limits of the operating system around this process, and the parent's
kill, are.

A work's file has `begin(duckdb, limits, config)`: it is given the engine, the limits and what every
connection is to be made with, and returns what answers one request. Frames both ways: four
bytes of length, big-endian, then JSON.
"""

import contextlib
import json
import os
import queue
import resource
import runpy
import struct
import sys
import threading
from typing import Any

_SAID_CHARACTERS = 4000

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


def main() -> None:
    """Serve requests until stdin ends. Arguments: limits as JSON, the work's file, modules' places."""
    limits = json.loads(sys.argv[1])
    sys.path += sys.argv[3:]
    if not limits["held"]:
        _confine(limits)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    import _duckdb as duckdb  # after the limits, which it must live under

    config = {**_CONFIG, "memory_limit": f"{int(limits['memory_bytes'])}B"}
    work: Any = runpy.run_path(sys.argv[2])["begin"](duckdb, limits, config)
    while True:
        request = requests.get()
        try:
            _give_time(int(limits["cpu_s"]))
            _answer(work(request))
        except (duckdb.Error, MemoryError, ValueError, OverflowError, OSError) as error:
            kind = type(error).__name__
            said = str(error)[:_SAID_CHARACTERS] or kind
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


def _answer(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
