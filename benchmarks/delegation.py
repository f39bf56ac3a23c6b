"""A no-op task, asked for to stored result, beside a multiplexed `ssh` that runs `true`.

Interleaved: one delegation through a warm `cmesh mcp`, one over the control socket, one ssh.
The answer is sent after the caller's durable commit, so it is the end of the measured path.
"""

import contextlib
import subprocess
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.calibration import spawned
from benchmarks.lines import LineClient, mcp_initialize
from benchmarks.mcp_start import SCRIPT
from benchmarks.ssh import SshMissing, ssh_master
from benchmarks.stage import Stage
from benchmarks.table import Row, timing

__all__ = ["measure", "open_relay"]

GOAL = 0.5
WARM_UP = 10
PAUSE_S = 0.02
END_LIMIT_S = 10.0


def measure(stage: Stage, count: int) -> list[Row]:
    """Delegate again and again; blocks."""
    mcp: list[float] = []
    control: list[float] = []
    ssh: list[float] = []
    why = ""
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(open_relay(stage))
        direct = stack.enter_context(stage.caller.connect("bench-control"))
        argv = None
        try:
            argv = stack.enter_context(ssh_master())
        except SshMissing as missing:
            why = str(missing)
        for turn in range(WARM_UP + count):
            mcp.append(_through_mcp(relay, stage.delegation(), turn))
            control.append(_through_control(direct, stage.delegation(), turn))
            if argv is not None:
                ssh += spawned(argv, 1)
            time.sleep(PAUSE_S)
    rows = [
        timing("delegate, through a warm `cmesh mcp`", mcp[WARM_UP:]),
        timing("delegate, through the control socket", control[WARM_UP:]),
    ]
    if not ssh:
        return [*rows, Row(name="multiplexed `ssh` exec of `true`", note=f"missing: {why}")]
    rows.append(timing("multiplexed `ssh` exec of `true`", ssh[WARM_UP:]))
    return [*rows, _ratio(rows[0], rows[2])]


def _ratio(delegation: Row, ssh: Row) -> Row:
    ratio = {key: delegation.figures[key] / ssh.figures[key] for key in ("min", "p50", "p95")}
    row = Row(name="delegate through mcp / ssh", unit="x", figures=ratio)
    return replace(row, goal=f"p50 <= {GOAL:g} x", met=ratio["p50"] <= GOAL)


@contextlib.contextmanager
def open_relay(stage: Stage) -> Generator[LineClient]:
    """Start `cmesh mcp` of the caller, greeted; it ends with the block."""
    pipe = subprocess.PIPE
    argv = [SCRIPT, "mcp"]
    with subprocess.Popen(argv, env=stage.caller.environment(), stdin=pipe, stdout=pipe) as process:
        with LineClient.of(process) as client:
            client.ask(mcp_initialize(1))
            client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            yield client
        process.communicate(timeout=END_LIMIT_S)


def _through_mcp(client: LineClient, arguments: Mapping[str, object], turn: int) -> float:
    params = {"name": "delegate", "arguments": arguments}
    call = {"jsonrpc": "2.0", "id": turn + 100, "method": "tools/call", "params": params}
    begun = time.perf_counter()
    answer = client.ask(call)
    seconds = time.perf_counter() - begun
    _require_success(answer.get("result", {}).get("structuredContent", {}), answer)
    return seconds


def _through_control(client: LineClient, arguments: Mapping[str, object], turn: int) -> float:
    begun = time.perf_counter()
    answer = client.ask({"id": turn + 1, "op": "delegate", "arguments": arguments})
    seconds = time.perf_counter() - begun
    _require_success(answer.get("result", {}), answer)
    return seconds


def _require_success(fields: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    if fields.get("state") != "succeeded":
        raise RuntimeError(f"the delegation did not succeed: {answer}")
