"""`true` under a shim, with a PID namespace and without one: hand-over to result, in turns.

The supervisor alone, without a daemon: what is left is what the namespace costs a task.
"""

import asyncio
import os
import time
import uuid
from pathlib import Path

from benchmarks.table import Row, timing
from cmesh.model import TaskId
from cmesh.runner.launch import Containment, Launch
from cmesh.runner.supervise import Supervisor

__all__ = ["measure"]

WARM_UP = 5
RESULT_LIMIT_S = 20.0
PAUSE_S = 0.03
"""The next idle shim is ready after this; a task that comes sooner waits for it as well."""

_KINDS: tuple[Containment, ...] = ("pid_namespace", "best_effort")


async def measure(base: Path, count: int) -> list[Row]:
    """Start `true` again and again."""
    seconds: dict[Containment, list[float]] = {kind: [] for kind in _KINDS}
    bursts: dict[Containment, list[float]] = {kind: [] for kind in _KINDS}
    news = asyncio.Event()
    tasks = base / "containment"
    supervisor = Supervisor(tasks, on_change=lambda _task: news.set())
    await supervisor.start()
    try:
        for turn in range(WARM_UP + count):
            for kind in _KINDS:
                await asyncio.sleep(PAUSE_S)
                took = await _run(supervisor, news, kind, 1)
                if turn >= WARM_UP:
                    seconds[kind].append(took)
        for _ in range(max(3, count // 10)):
            for kind in _KINDS:
                bursts[kind].append(await _run(supervisor, news, kind, 10) / 10)
    finally:
        held, note = supervisor.containment
        await supervisor.close()
    names = {"pid_namespace": "in a PID namespace", "best_effort": "best effort"}
    missing = "" if held == "pid_namespace" else f"no namespace here: {note}"
    rows = [timing(f"`true` under a shim, {names[kind]}", seconds[kind]) for kind in _KINDS]
    rows += [
        timing(f"the same, each of 10 at once, {names[kind]}", bursts[kind]) for kind in _KINDS
    ]
    cost = rows[0].figures["p50"] - rows[1].figures["p50"]
    name = "what the namespace adds to a task, p50"
    return [*rows, Row(name=name, figures={"value": cost}, note=missing)]


async def _run(
    supervisor: Supervisor, news: asyncio.Event, kind: Containment, together: int
) -> float:
    tasks = [TaskId(str(uuid.uuid4())) for _ in range(together)]
    for task_id in tasks:
        launch = Launch(
            argv=("/bin/true",),
            cwd="/",
            env={"PATH": os.defpath},
            stdin=b"",
            runtime_s=60,
            output_bytes=1_000,
            containment=kind,
        )
        supervisor.prepare(task_id, launch)
    begun = time.perf_counter()
    for task_id in tasks:
        await supervisor.spawn(task_id)
    async with asyncio.timeout(RESULT_LIMIT_S):
        while not all(supervisor.look(task_id).result for task_id in tasks):
            news.clear()
            if not all(supervisor.look(task_id).result for task_id in tasks):
                await news.wait()
    took = time.perf_counter() - begun
    for task_id in tasks:
        supervisor.discard(task_id)
    return took
