"""An event's way: from the moment an agent prints a line until its caller has the event.

A command prints the time, every so often; a caller that follows its task compares. The same
lines through a multiplexed `ssh` are what they are held against, in turn. One machine, one clock.
"""

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from benchmarks.lines import LineClient
from benchmarks.ssh import SshMissing, ssh_master
from benchmarks.stage import CLOCK, Stage
from benchmarks.table import Row, timing
from cmesh.runner.reader import SINGLE_LINES

__all__ = ["measure"]

GOAL_MS = 20.0
EVENTS = 200
WARM_UP = 5
WAIT_S = 20


def measure(stage: Stage, count: int) -> list[Row]:
    """Follow a task that prints `count` times, then the same over ssh; blocks.

    No more lines than are events of their own: what follows those comes in blocks.
    """
    count = min(count, SINGLE_LINES)
    began = time.time()
    with stage.caller.connect("bench-watch") as client:
        read, whole = _followed(client, stage, count)
    rows = [
        _p99("an event: printed to followed by its caller", whole, GOAL_MS),
        _p99("part: printed to read by the worker's daemon", read),
        _p99(
            "part: stored on both sides, and sent",
            [all_ - one for all_, one in zip(whole, read, strict=True)],
        ),
    ]
    try:
        with ssh_master() as argv:
            lines = _through_ssh([*argv[:-1], *_quoted(stage, count)])
    except SshMissing as missing:
        return [*rows, Row(name="the same line through `ssh`", note=f"missing: {missing}")]
    rows.append(_p99("the same line through `ssh`", lines))
    ratio = {key: rows[0].figures[key] / rows[3].figures[key] for key in ("min", "p50", "p95")}
    name = f"an event / a line through `ssh`, in {time.time() - began:.0f} s"
    return [*rows, Row(name=name, unit="x", figures=ratio)]


def _followed(client: LineClient, stage: Stage, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds until the worker's daemon had read each line, and until we had it."""
    given = {**stage.delegation(), "runner": f"command:{CLOCK}", "prompt": str(count), "wait_s": 0}
    task_id = _ask(client, 1, "delegate", given)["task_id"]
    read: list[float] = []
    whole: list[float] = []
    seen, state, number = 0, "submitting", 1
    while True:
        number += 1
        view = _ask(
            client,
            number,
            "get_task",
            {
                "task_id": task_id,
                "after_event": seen,
                "known_state": state,
                "events": EVENTS,
                "wait_s": WAIT_S,
            },
        )
        now = time.time()
        for event in view["events"]:
            seen = event["seq"]
            if event["kind"] != "output":
                continue
            had = datetime.fromisoformat(event["ts"]).timestamp()
            # Lines that were read at one time are one event; each has its own time.
            for line in event["text"].splitlines():
                printed = int(line) / 1e9
                read.append(had - printed)
                whole.append(now - printed)
        state = view["state"]
        if state in {"succeeded", "failed"} and seen >= view["last_event"]:
            return read[WARM_UP:], whole[WARM_UP:]


def _through_ssh(argv: Sequence[str]) -> list[float]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        return [time.time() - int(line) / 1e9 for line in process.stdout][WARM_UP:]


def _quoted(stage: Stage, count: int) -> list[str]:
    """Return the words for a remote shell that print the same lines."""
    return ["echo", str(count), "|", shlex.join(stage.clock_argv())]


def _ask(client: LineClient, number: int, operation: str, given: dict[str, object]) -> Any:
    answer = client.ask({"id": number, "op": operation, "arguments": given})
    if "error" in answer:
        raise RuntimeError(f"{operation}: {answer['error']}")
    return answer["result"]


def _p99(name: str, seconds: Sequence[float], limit_ms: float = 0) -> Row:
    row = timing(name, seconds)
    values = sorted(seconds)
    p99 = values[min(len(values) - 1, int(len(values) * 0.99))] * 1000
    row = replace(row, note=f"p99 {p99:.2f} ms")
    if not limit_ms:
        return row
    return replace(row, goal=f"p99 <= {limit_ms:g} ms", met=p99 <= limit_ms)
