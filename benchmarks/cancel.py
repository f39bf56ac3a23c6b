"""From `cancel_task` to a stored `cancelled`, at the caller: zero processes were counted.

A tree that ends when asked, one that does not, and a program with something to finish first.
"""

import time
from typing import Any

from benchmarks.lines import LineClient
from benchmarks.stage import PEER, TREES, Stage
from benchmarks.table import Row, timing

__all__ = ["measure"]

COOPERATIVE_MS, STUBBORN_MS, AGENT_MS = 200, 6_000, 100
STUBBORN_SHARE = 10
"""A stubborn tree takes the whole grace, so there are fewer of them."""

FINISHES_MS = 300
_READY_LIMIT_S = 20.0


def measure(stage: Stage, count: int) -> list[Row]:
    """Cancel again and again; blocks."""
    with stage.caller.connect("bench-cancel") as client:
        seconds = {
            name: [_cancelled(stage, client, name) for _ in range(max(3, count // share))]
            for name, share in zip(TREES, (2, STUBBORN_SHARE, 4), strict=True)
        }
    own = [value - FINISHES_MS / 1000 for value in seconds["finishes"]]
    goals = [f"p50 < {COOPERATIVE_MS} ms", f"p99 < {STUBBORN_MS} ms", f"p50 < {AGENT_MS} ms"]
    return [
        timing(
            "cancel, a tree that ends when asked",
            seconds["cooperative"],
            goal=goals[0],
            limit_ms=COOPERATIVE_MS,
        ),
        timing(
            "cancel, a tree that ignores SIGTERM, with setsid and a double fork",
            seconds["stubborn"],
            goal=goals[1],
            limit_ms=STUBBORN_MS,
        ),
        timing(
            f"cancel, a program that finishes for {FINISHES_MS} ms, beyond its own time",
            own,
            goal=goals[2],
            limit_ms=AGENT_MS,
        ),
    ]


def _cancelled(stage: Stage, client: LineClient, name: str) -> float:
    asked = stage.delegation() | {"runner": f"command:{name}", "new": True, "wait_s": 0}
    task_id = _call(client, "delegate", **asked)["task_id"]
    limit = time.monotonic() + _READY_LIMIT_S
    while not any(event["text"] == "ready" for event in _task(client, task_id, 0)["events"]):
        if time.monotonic() > limit:
            raise TimeoutError(f"task {task_id} of {PEER} is not ready")
    begun = time.perf_counter()
    _call(client, "cancel_task", task_id=task_id)
    while True:
        view = _task(client, task_id, 20)
        if view["state"] == "cancelled":
            break
    took = time.perf_counter() - begun
    if view["processes_left"] != 0:
        raise RuntimeError(f"task {task_id}: {view['processes_left']} processes left")
    return took


def _task(client: LineClient, task_id: str, wait_s: float) -> dict[str, Any]:
    return _call(client, "get_task", task_id=task_id, wait_s=wait_s)


def _call(client: LineClient, operation: str, **arguments: object) -> dict[str, Any]:
    answer = client.ask({"id": 1, "op": operation, "arguments": arguments})
    if "error" in answer:
        raise RuntimeError(str(answer["error"]))
    return answer["result"]
