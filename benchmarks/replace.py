"""How long an agent's session gets no answer when its daemon is killed or replaced.

One `cmesh mcp` calls without a pause, each call as soon as the last was answered. A gap is
the time from the last success before to the first success after; a call that is held by the
relay until the next daemon serves it counts with all of its time.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from benchmarks.delegation import open_relay
from benchmarks.lines import LineClient
from benchmarks.stage import Stage
from benchmarks.table import Row, timing

__all__ = ["measure"]

GOAL_MS = 3_000.0
SETTLE_LIMIT_S = 30.0
GONE_LIMIT_S = 30.0
_LIST = {"name": "list_tasks", "arguments": {"limit": 1}}


@dataclass(slots=True)
class _Session:
    """One agent session that never stops calling, and when its calls succeeded."""

    client: LineClient
    params: Callable[[], Mapping[str, object]]
    successes: list[float] = field(default_factory=list[float])
    ending: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self) -> None:
        number = 1000
        while not self.ending:
            number += 1
            call = {"jsonrpc": "2.0", "id": number, "method": "tools/call"}
            answer = self.client.ask({**call, "params": self.params()})
            if answer.get("result", {}).get("isError") is False:
                with self.changed:
                    self.successes.append(time.perf_counter())
                    self.changed.notify_all()

    def wait(self, count: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.successes) >= count, SETTLE_LIMIT_S):
                raise RuntimeError("no call succeeded any more")

    def gap(self, disturb: Callable[[], None]) -> float:
        """Disturb the daemon, and return the longest time without a success around it."""
        self.wait(len(self.successes) + 3)
        begin = len(self.successes) - 1
        disturb()
        self.wait(len(self.successes) + 3)
        times = self.successes[begin:]
        return max(after - before for before, after in pairwise(times))


def measure(stage: Stage, count: int) -> list[Row]:
    """Kill and replace the caller's daemon again and again; blocks."""
    rows: list[Row] = []
    _replace(stage)  # from here on it is a daemon that the relay may start again
    for what, params in (("`list_tasks`", lambda: _LIST), ("`delegate`", _delegate(stage))):
        for how, disturb in (("kill -9", _kill), ("`up --replace`", _replace)):
            with open_relay(stage) as client:
                session = _Session(client, params)
                thread = threading.Thread(target=session.run)
                thread.start()
                try:
                    gaps = [session.gap(lambda d=disturb: d(stage)) for _ in range(count)]
                finally:
                    session.ending = True
                    thread.join()
            rows.append(_row(f"gap of {what} over {how}", gaps))
    stage.caller.call("down")
    return rows


def _row(name: str, gaps: list[float]) -> Row:
    row = timing(name, gaps)
    return replace(row, goal="p95 < 3000 ms", met=row.figures["p95"] < GOAL_MS)


def _delegate(stage: Stage) -> Callable[[], Mapping[str, object]]:
    arguments = stage.delegation() | {"new": True}
    return lambda: {"name": "delegate", "arguments": arguments}


def _kill(stage: Stage) -> None:
    pid = int(stage.caller.call("status")["pid"])
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        select.select([handle], [], [], GONE_LIMIT_S)
    finally:
        os.close(handle)


def _replace(stage: Stage) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-m", "cmesh", "up", "--replace", "--json"],
        env=stage.caller.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    if done.returncode or not answer.get("before"):
        raise RuntimeError(f"the daemon was not replaced: {done.stdout} {done.stderr}")
