"""What is done to a task's own processes and files, and to an agent's session: see `faults`."""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

from cmesh.errors import CmeshError
from cmesh.model import TERMINAL
from cmesh.runner.shim_processes import Process, signal_process
from tests.chaos.points import SHIM_POINTS
from tests.chaos.tally import Tally
from tests.chaos.world import RUNNER, World, marked_processes

__all__ = [
    "cut_spool",
    "kill_agent",
    "kill_relay",
    "kill_shim",
    "kill_shim_and_worker",
    "kill_under_session",
    "shim_point",
]

POINT_LIMIT_S = 12.0
VICTIM_LIMIT_S = 8.0
POLL_S = 0.02
SHIM_REPORT_LIMIT_S = 5.0


async def kill_shim(world: World, chance: random.Random, tally: Tally) -> None:
    """End a shim alone; the worker must say so in time, and leave nothing."""
    task_id = await _victim(world, chance)
    owner = _owner(world, task_id) if task_id else None
    asked = world.asked_for(task_id) if task_id else None
    if task_id is None or owner is None or asked is None:
        tally.faults["no shim to kill"] += 1
        return
    asked.excused = True
    if not signal_process(owner, signal.SIGKILL):
        return
    tally.shims += 1
    began = time.monotonic()
    while time.monotonic() - began < 2 * SHIM_REPORT_LIMIT_S:
        with contextlib.suppress(CmeshError, OSError):
            if (await world.worker.task(task_id)).state in TERMINAL:
                break
        await asyncio.sleep(POLL_S)
    took_s = time.monotonic() - began
    tally.shim_reports_s.append(took_s)
    if took_s > SHIM_REPORT_LIMIT_S:
        late = f"task {task_id}: {took_s:.1f} s after its shim's end"
        tally.slow.append(f"round {world.batch}: {late}")


async def kill_shim_and_worker(world: World, chance: random.Random, tally: Tally) -> None:
    """End a shim while nobody watches it."""
    task_id = await _victim(world, chance)
    asked = world.asked_for(task_id) if task_id else None
    world.worker.kill()
    owner = _owner(world, task_id) if task_id else None
    if owner is not None and asked is not None:
        asked.excused = True
        tally.shims += signal_process(owner, signal.SIGKILL)


async def shim_point(world: World, chance: random.Random, tally: Tally) -> None:
    """Let one shim die at a named step of the start and end protocols."""
    fewest = min(tally.points[point] for point in SHIM_POINTS)
    point = chance.choice([p for p in SHIM_POINTS if tally.points[p] == fewest])
    world.worker.arm(point)
    world.order(seconds=0.2)
    end = time.monotonic() + POINT_LIMIT_S
    while not world.worker.reached and time.monotonic() < end:
        await asyncio.sleep(POLL_S)
    world.worker.disarm()
    tally.points[point] += 1
    if not world.worker.reached:
        tally.faults["point not reached"] += 1
        return
    tally.shims += 1
    tally.reached.add(point)


async def kill_agent(world: World, chance: random.Random, tally: Tally) -> None:
    """End the agent itself; its shim reports the signal."""
    task_id = await _victim(world, chance)
    asked = world.asked_for(task_id) if task_id else None
    if task_id is None or asked is None:
        return
    asked.touched = True
    for pid, marked in marked_processes():
        with contextlib.suppress(OSError):
            if marked == task_id and b"agent.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                tally.agents += 1


async def cut_spool(world: World, chance: random.Random, tally: Tally) -> None:
    """Cut the output a shim has spooled, as a careless clean-up would."""
    del tally
    task_id = await _victim(world, chance)
    if task_id is not None:
        with contextlib.suppress(OSError):
            path = world.worker.state / "tasks" / task_id / "stdout"
            os.truncate(path, chance.randrange(path.stat().st_size + 1))


async def kill_relay(world: World, chance: random.Random, tally: Tally) -> None:
    """End an agent's relay while it asks; the agent asks again with the same key."""
    order = world.next_order(seconds=0.5)
    async with world.caller.mcp() as agent:
        relay = _relay(world)
        asking = asyncio.create_task(
            agent.call(
                "delegate",
                peer="worker",
                prompt=order.prompt,
                directory=str(world.directory),
                runner=RUNNER,
                profile="full",
                idempotency_key=order.key,
                if_offline="queue",
            )
        )
        await asyncio.sleep(chance.uniform(0, 0.4))
        os.kill(relay, signal.SIGKILL)
        tally.relays += 1
        asking.cancel()
        await asyncio.wait([asking])
    world.place_order(order)


async def kill_under_session(world: World, chance: random.Random, tally: Tally) -> None:
    """End the daemon below an agent's session; the next call of that session must work."""
    del chance
    async with world.caller.mcp() as agent:
        await agent.call("list_tasks")
        world.caller.kill()
        await world.up()
        answer = await agent.call("list_tasks")
        assert not answer.is_error, f"after a kill the same session got: {answer.text}"
        tally.sessions += 1


def _relay(world: World) -> int:
    """Return the relay's process: the one that serves MCP for the caller's state directory."""
    mark = f"CMESH_STATE_DIR={world.caller.state}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or mark not in (entry / "environ").read_bytes():
                continue
            if (entry / "cmdline").read_bytes().split(b"\0")[-2:-1] == [b"mcp"]:
                return int(entry.name)
    raise AssertionError("no relay runs")


async def _victim(world: World, chance: random.Random) -> str | None:
    """Return a running task; waits a moment for one."""
    world.order(seconds=3)
    end = time.monotonic() + VICTIM_LIMIT_S
    while time.monotonic() < end:
        known = [task_id for task_id in world.running() if world.asked_for(task_id) is not None]
        if known:
            return chance.choice(known)
        await asyncio.sleep(POLL_S)
    return None


def _owner(world: World, task_id: str) -> Process | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        claim = json.loads((world.worker.state / "tasks" / task_id / "claim").read_text("utf-8"))
        if claim["who"] == "shim":
            return (int(claim["pid"]), int(claim["start_time"]))
    return None
