"""Resident memory: the idle daemon beside a process that is a node and nothing else.

The parts are what one interpreter grows by as it imports one after another. The daemon is
idle once its database process has ended; that one is measured before.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from benchmarks.stage import ROOT, USER, Stage
from benchmarks.table import Row

__all__ = ["children", "command", "measure", "peak_mib", "peer_process", "rss_mib"]

GOAL = 2.0
SETTLE_S = 3.0
END_LIMIT_S = 20.0
IDLE_LIMIT_S = 40.0
POLL_S = 0.1

_PARTS = (
    ("interpreter", "sys"),
    ("asyncio", "asyncio"),
    ("the node's extension, not started", "cmesh.node.node"),
    ("pydantic and our messages", "cmesh.protocol.codec"),
    ("websockets", "cmesh.link.link"),
    ("cryptography", "cmesh.keys"),
    ("the rest of the daemon", "cmesh.daemon.app"),
    ("control socket and composition", "cmesh.interfaces.serve"),
    ("MCP SDK, loaded for the first agent", "cmesh.interfaces.mcp.server"),
)


async def measure(stage: Stage) -> list[Row]:
    """Compare the caller's daemon, before any agent has connected, with a bare node."""
    key = await stage.testnet.auth_key(USER)
    database = await _until_idle(stage.caller.pid)
    with peer_process(stage, "idle", "bare", key) as (process, _):
        await asyncio.sleep(SETTLE_S)
        bare = rss_mib(process.pid)
        daemon = rss_mib(stage.caller.pid)
        others = sum(rss_mib(pid) for pid in children(stage.caller.pid))
    ratio = daemon / bare
    rows = [
        Row(name="bare Python + node process", unit="MiB", figures={"value": bare}),
        Row(name="idle daemon, one link", unit="MiB", figures={"value": daemon}),
        Row(name="the shim it keeps warm", unit="MiB", figures={"value": others}),
        Row(name="its database process, until idle", unit="MiB", figures={"value": database}),
        Row(
            name="idle daemon / bare node",
            unit="x",
            figures={"value": ratio},
            goal=f"<= {GOAL:g} x",
            met=ratio <= GOAL,
        ),
    ]
    return rows + await asyncio.to_thread(_parts)


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has had resident so far."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def rss_mib(pid: int) -> float:
    """Return a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


@contextlib.contextmanager
def peer_process(
    stage: Stage, mode: str, hostname: str, auth_key: str
) -> Generator[tuple["subprocess.Popen[bytes]", dict[str, str]]]:
    """Start `benchmarks.peer` and yield it, with what it says once its node is up."""
    given = {
        "state_dir": str(stage.base / hostname),
        "hostname": hostname,
        "control_url": stage.testnet.control_url,
        "auth_key": auth_key,
    }
    argv = [sys.executable, "-m", "benchmarks.peer", mode]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()
            yield process, json.loads(process.stdout.readline())
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(END_LIMIT_S)


async def _until_idle(pid: int) -> float:
    """Wait until a daemon's database process has ended; return its largest memory seen."""
    largest = 0.0
    async with asyncio.timeout(IDLE_LIMIT_S):
        while True:
            here = [child for child in children(pid) if b"database_worker" in command(child)]
            if not here:
                return largest
            with contextlib.suppress(OSError, AssertionError):
                largest = max(largest, rss_mib(here[0]))
            await asyncio.sleep(POLL_S)


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text("ascii").split()]
    return found


def command(pid: int) -> bytes:
    """Return a process's command line; empty when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _parts() -> list[Row]:
    program = [
        "import sys, re, importlib",
        "def rss(): return int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])",
        "before = 0",
        "for name in sys.argv[1:]:",
        "    importlib.import_module(name)",
        "    now = rss(); print(now - before); before = now",
    ]
    argv = [sys.executable, "-c", "\n".join(program), *(module for _, module in _PARTS)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT)
    grown = [int(line) / 1024 for line in done.stdout.split()]
    return [
        Row(name=f"part: {name}", unit="MiB", figures={"value": value})
        for (name, _), value in zip(_PARTS, grown, strict=True)
    ]
