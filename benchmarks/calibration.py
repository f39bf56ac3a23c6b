"""What this machine takes for the least that anything here needs."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.table import Row, timing

__all__ = ["calibrate", "spawned", "timed"]

BLOCK_BYTES = 2_000
FILE_BYTES = 4 * 1024 * 1024
ECHO_BYTES = 64


def calibrate(directory: Path, count: int) -> list[Row]:
    """Measure interpreter start, process start, synced append and loopback echo; blocks."""
    bare = [sys.executable, "-I", "-S", "-c", "pass"]
    true = "/bin/true"
    return [
        timing("bare interpreter, `python -I -S -c pass`", spawned(bare, count)),
        timing("start and end of `/bin/true`", spawned([true], count)),
        timing("append and fdatasync, on the state directory's disk", _syncs(directory, count)),
        timing("TCP echo over loopback", _echoes(count)),
    ]


def spawned(argv: Sequence[str], count: int) -> list[float]:
    """Return the seconds each of `count` runs of a program took, start to end."""
    return [timed(lambda: subprocess.run(argv, check=True, env={})) for _ in range(count)]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds `work` took."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _syncs(directory: Path, count: int) -> list[float]:
    with tempfile.TemporaryFile(dir=directory) as file:
        fd = file.fileno()
        os.posix_fallocate(fd, 0, FILE_BYTES)
        os.fsync(fd)

        def append(place: int) -> None:
            os.pwrite(fd, b"x" * BLOCK_BYTES, place * BLOCK_BYTES)
            os.fdatasync(fd)

        return [timed(lambda n=n: append(n)) for n in range(count)]


def _echoes(count: int) -> list[float]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_echo, args=(server,))
        thread.start()
        try:
            with socket.create_connection(server.getsockname()) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

                def once() -> None:
                    client.sendall(b"x" * ECHO_BYTES)
                    client.recv(ECHO_BYTES, socket.MSG_WAITALL)

                return [timed(once) for _ in range(count)]
        finally:
            thread.join()


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(ECHO_BYTES):
            connection.sendall(data)
