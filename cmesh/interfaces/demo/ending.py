"""The demo's end: its tasks, its daemons and its tailnet, in this order, and nothing else.

A daemon is the demo's when it has the store of one of the demo's state directories open,
whoever started it: people stop, start and replace them while the demo is kept.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh.clock import Clock
from cmesh.daemon.arguments import CancelArguments, TaskArguments, TasksArguments
from cmesh.errors import CmeshError
from cmesh.interfaces.demo.machine import DemoNode
from cmesh.interfaces.demo.processes import Started, alive, descendants, processes_with
from cmesh.interfaces.launch import is_replacing
from cmesh.interfaces.start import mark_down, wait_gone
from cmesh.locks import holder
from cmesh.model import Direction
from cmesh.node.testnet import Testnet
from cmesh.store.head import STORE_LOCK

__all__ = ["Left", "daemon_of", "end"]

POLL_S = 0.03
STOP_LIMIT_S = 15.0
KILL_LIMIT_S = 5.0
CANCEL_LIMIT_S = 8.0
REPLACE_LIMIT_S = 5.0
"""How long a replacement under way gets to bring up the daemon that is then ended."""

SWEEP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What has not ended.

    Attributes:
        daemons: machines whose daemon could not be ended, with its pid.
        children: processes that the daemons started and that did not end with them.
        others: processes that use the demo and are not its own, an agent's above all.
    """

    daemons: dict[str, int]
    children: list[int]
    others: list[int]


async def end(nodes: Sequence[DemoNode], testnet: Testnet, base: Path, clock: Clock) -> Left:
    """End all that belongs to these machines, then remove `base`; return what is left.

    The directory of a daemon that could not be ended stays.
    """
    for node in nodes:
        with contextlib.suppress(OSError, CmeshError):
            # So that no relay of an agent starts the daemon again meanwhile.
            mark_down(node.state)
    await asyncio.gather(*(_replaced(node, clock) for node in nodes))
    pids = [pid for node in nodes for pid in (node.pid, daemon_of(node)) if pid]
    family = descendants(pids)
    await asyncio.gather(*(_end_tasks(node) for node in nodes))
    await asyncio.gather(*(_stop(node) for node in nodes))
    await testnet.close()
    await asyncio.gather(*(_sweep(node) for node in nodes))
    daemons = {node.name: pid for node in nodes if (pid := daemon_of(node))}
    children = await _outlived(family - {each for each in family if each[0] in pids}, clock)
    own = {*daemons.values(), *children}
    others = sorted(set(processes_with(base)) - own)
    if not daemons:
        await asyncio.to_thread(_remove, base, nodes, keep_marks=bool(others))
    return Left(daemons=daemons, children=children, others=others)


def daemon_of(node: DemoNode) -> int:
    """Return the process that has the machine's store open now; 0 = none."""
    return holder(node.state / "store" / STORE_LOCK) or 0


async def _replaced(node: DemoNode, clock: Clock) -> None:
    """Wait until `cmesh up --replace`, if it is at work, has put its daemon in place."""
    deadline = clock.monotonic() + REPLACE_LIMIT_S
    while True:
        if not is_replacing(node.state) or clock.monotonic() > deadline:
            return
        await asyncio.sleep(POLL_S)


async def _end_tasks(node: DemoNode) -> None:
    """Cancel what runs on a machine, so that its agents end before their daemon does."""
    if not daemon_of(node):
        return
    client = node.client
    with contextlib.suppress(CmeshError, TimeoutError):
        async with asyncio.timeout(CANCEL_LIMIT_S):
            # Anew: the daemon may be another one than the demo has spoken with.
            await client.close()
            await client.connect()
            page = await client.list_tasks(TasksArguments(state="open", direction=Direction.IN))
            for task in page.tasks:
                view = await client.cancel_task(CancelArguments(task_id=task.task_id))
                wait = TaskArguments(
                    task_id=task.task_id, known_state=view.state, wait_s=CANCEL_LIMIT_S
                )
                await client.get_task(wait)


async def _stop(node: DemoNode) -> None:
    """End the daemon that the demo started, and the one that has followed it, if any."""
    await node.client.close()
    process = node.process
    if process is not None and process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    for number, limit_s in ((signal.SIGTERM, STOP_LIMIT_S), (signal.SIGKILL, KILL_LIMIT_S)):
        pid = daemon_of(node)
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
        await asyncio.to_thread(wait_gone, pid, limit_s)


async def _sweep(node: DemoNode) -> None:
    """End what is left of tasks: their processes carry the worker's task directory."""
    tasks = node.state / "tasks"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SWEEP_LIMIT_S):
            while left := processes_with(tasks):
                for pid in left:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(POLL_S)


async def _outlived(family: set[Started], clock: Clock) -> list[int]:
    """Wait for the daemons' own children, idle shims above all; return who does not end."""
    deadline = clock.monotonic() + SWEEP_LIMIT_S
    while left := alive(family):
        if clock.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S)
    return left


def _remove(base: Path, nodes: Sequence[DemoNode], *, keep_marks: bool) -> None:
    shutil.rmtree(base, ignore_errors=True)
    if keep_marks:
        # A relay that lives on would start a daemon in an empty directory otherwise.
        for node in nodes:
            mark_down(node.state)
