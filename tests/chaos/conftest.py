"""Two machines whose daemons are ended at bad moments; tasks of theirs say when they start."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from cmesh.runner.shim_processes import task_processes
from tests.system.daemon.conftest import OUTBOUND, anyio_backend, ground, inbound, testnet
from tests.system.daemon.machine import Machine, eventually, worker_user

__all__ = ["Field", "anyio_backend", "field", "ground", "testnet"]

# Tells its name once for each start, then waits for a file of that name.
HELD = (
    'n=$(cat)\necho "$n" >> starts\nwhile [ ! -e "go-$n" ]; do sleep 0.05; done\necho "done $n"\n'
)
QUICK = 'n=$(cat)\necho "$n" >> starts\nsleep 0.3\necho "done $n"\n'


class Field:
    """`laptop` asks, `builder` works in `place`."""

    def __init__(self, laptop: Machine, builder: Machine, place: Path) -> None:
        self.laptop = laptop
        self.builder = builder
        self.place = place

    async def held(self, name: str) -> TaskView:
        """Delegate a task that runs until `release`, and wait until its agent has started."""
        view = await self.delegate("held", name)
        await self.started(name)

        async def is_running() -> TaskView | None:
            now = await self.laptop.task(view.task_id)
            return now if now.state is TaskState.RUNNING else None

        return await eventually(is_running)

    async def delegate(self, command: str, name: str, **more: Any) -> TaskView:
        fields = {"prompt": name, "idempotency_key": f"key-{name}", **more}
        return await self.laptop.delegate("builder", f"command:{command}", self.place, **fields)

    async def started(self, name: str) -> None:
        async def has_started() -> bool | None:
            return name in self.starts() or None

        await eventually(has_started)

    def release(self, name: str) -> None:
        (self.place / f"go-{name}").touch()

    def starts(self) -> list[str]:
        """Return the names of all agents that ever started, once for each start."""
        try:
            return (self.place / "starts").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []

    def shim_pid(self, task_id: str) -> int:
        claim = (self.builder.state / "tasks" / task_id / "claim").read_text("utf-8")
        return int(json.loads(claim)["pid"])

    async def same_on_both_sides(self, task_id: str) -> TaskView:
        """Wait until the end is acknowledged, and return it; both sides must tell the same."""

        async def acknowledged() -> TaskView | None:
            there = await self.builder.task(task_id)
            return there if there.receipt == "complete" else None

        here = await self.laptop.ended(task_id)
        there = await eventually(acknowledged)
        assert (here.state, here.exit_code, here.code) == (there.state, there.exit_code, there.code)
        assert task_processes(task_id, 0) == set()
        return here


@pytest.fixture(scope="module")
async def field(ground: Path, testnet: Testnet) -> AsyncIterator[Field]:
    place = ground / "builder" / "app"
    commands = "".join(
        f"[commands.{name}]\nargv = ['/bin/sh', '-c', '''{script}''']\n"
        for name, script in (("held", HELD), ("quick", QUICK))
    )
    rule = inbound(place, ["command:held", "command:quick"])
    laptop = Machine("laptop", ground, testnet, worker_user())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        lines = {laptop: OUTBOUND, builder: f"[worker]\nconcurrent = 4\n{commands}{rule}"}
        for machine, text in lines.items():
            stack.push_async_callback(machine.stop)
            await machine.configure(text)
        builder.directory("app")
        await asyncio.gather(builder.up(), laptop.up())
        made = Field(laptop, builder, place)
        await made.delegate("quick", "first")
        await builder.trust(laptop)
        yield made
        for machine in (laptop, builder):
            assert os.getpgid(machine.pid) == machine.pid, "a daemon did not survive its test"
