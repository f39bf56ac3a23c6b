"""A network namespace with a relay and a program in it, and the daemon's end of the door."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from functools import cache
from pathlib import Path

import pytest

__all__ = [
    "LIMIT_S",
    "PORT",
    "PYTHON",
    "Door",
    "own_network",
    "relays",
    "run",
    "started",
    "until_gone",
]

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("in_namespace.py")
PYTHON = (sys.executable, "-I", "-S", "-c")
PORT = 8119
LIMIT_S = 30.0
POLL_S = 0.02


@cache
def own_network() -> tuple[str, ...]:
    """Return a prefix that gives a process its own network, or skip."""
    for prefix in (("unshare", "--net"), ("unshare", "--map-root-user", "--net")):
        try:
            done = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=10)
        except FileNotFoundError:
            pytest.skip("no `unshare` on this machine")
        if done.returncode == 0:
            return prefix
    pytest.skip("network namespaces need root or user namespaces here")


class Door:
    """What the daemon binds, without a proxy behind it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    async def take(self) -> socket.socket:
        """Return the next connection that a relay hands in."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                with contextlib.suppress(BlockingIOError):
                    _data, fds, _flags, _ = socket.recv_fds(self._socket, 1, 1)
                    taken = socket.socket(fileno=fds[0])
                    taken.setblocking(False)
                    return taken
                await asyncio.sleep(POLL_S)

    def close(self) -> None:
        self._socket.close()


@contextlib.asynccontextmanager
async def started(
    door: Path,
    *program: str,
    env: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] | None = None,
    limit_s: float = LIMIT_S,
    python: str = sys.executable,
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a program in a network of its own with a relay; both have ended afterwards."""
    before = own_network() if prefix is None else prefix
    launch = (*before, python, "-I", "-S", str(SCRIPT), str(ROOT), str(door), str(PORT))
    process = await asyncio.create_subprocess_exec(
        *launch,
        str(limit_s),
        *program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, **(env or {})},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with contextlib.suppress(ProcessLookupError):
            await process.communicate()
        await until_gone(door)


async def run(door: Path, *program: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program to its end; return its status and its output, errors last."""
    async with asyncio.timeout(LIMIT_S), started(door, *program, env=env) as process:
        out, error = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode() + error.decode()


def relays(door: Path) -> list[int]:
    """Return the relays that serve a door, by the command line they were forked with."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(door) in words and os.fsencode(SCRIPT) in words:
                    found.append(int(entry.name))
    return found


async def until_gone(door: Path) -> None:
    """Wait until no relay of a door is left."""
    async with asyncio.timeout(LIMIT_S):
        while relays(door):
            await asyncio.sleep(POLL_S)
