"""`cmesh watch` at both ends of a delegation: approve, refuse, cancel, and a daemon that restarts."""

# pyright: reportPrivateUsage=false

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from cmesh.model import TaskState
from tests.system.daemon.conftest import COMMANDS, OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import (
    END_LIMIT_S,
    ROOT,
    Machine,
    as_user,
)

pytestmark = [pytest.mark.anyio, pytest.mark.system]


LINE_LIMIT = 1 << 20
"""A line may hold a whole task."""


class Person:
    """Somebody at `cmesh watch` of a machine; `said` is the screen after the last order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said = ""
        self._process = process

    async def press(self, keys: str) -> None:
        await self._order(press=keys)

    async def answer(self, keys: str) -> None:
        """Press keys once a question stands there."""
        await self._order(answer=keys)

    async def until(self, text: str) -> str:
        return await self._order(until=text)

    async def _order(self, **order: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(END_LIMIT_S):
            line = await self._process.stdout.readline()
        assert line, f"after {order} nothing more came; before that the screen was\n{self.said}"
        self.said = json.loads(line)
        return self.said


@contextlib.asynccontextmanager
async def at_watch(machine: Machine) -> AsyncGenerator[Person]:
    python = machine.command()[0]
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "tests.fakes.screen", str(machine.state)),
        cwd=ROOT,
        env=machine.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **as_user(machine._user),
    )
    try:
        yield Person(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(END_LIMIT_S):
            await process.wait()


class Program:
    """What a program at `cmesh watch --json` has read so far."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    async def until(self, task_id: str) -> None:
        """Wait until it knows of a task; from then on it must miss nothing of it."""
        async with asyncio.timeout(END_LIMIT_S):
            while all(change["task_id"] != task_id for change in self.changes):
                self._more.clear()
                await self._more.wait()

    async def read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            self.changes.append(json.loads(line))
            self._more.set()


@contextlib.asynccontextmanager
async def in_lines(machine: Machine) -> AsyncGenerator[Program]:
    """Let a program watch; all of its changes are there once it was interrupted."""
    process = await asyncio.create_subprocess_exec(
        *machine.command("watch", "--json"),
        cwd=ROOT,
        env=machine.environment(),
        stdout=subprocess.PIPE,
        limit=LINE_LIMIT,
        **as_user(machine._user),
    )
    assert process.stdout is not None
    program = Program()
    reading = asyncio.create_task(program.read(process.stdout))
    try:
        yield program
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(END_LIMIT_S):
            await reading
            await process.wait()


async def test_both_owners_see_a_task_and_a_restart_loses_nothing_of_it(make_machine: MakeMachine):
    laptop = await make_machine("laptop", OUTBOUND)
    builder = await make_machine("builder")
    place = builder.directory("app")
    runners = ["held", "sleep"]
    rule = inbound(place, [f"command:{name}" for name in runners], 'approval = "ask"')
    text = "".join(command(name, *COMMANDS[name]) for name in runners)
    await builder.configure(text + rule)
    await asyncio.gather(laptop.up(), builder.up())
    async with in_lines(laptop) as program, at_watch(laptop) as asker, at_watch(builder) as owner:
        held = (await laptop.delegate("builder", "command:held", place)).task_id
        await builder.trust(laptop)
        await owner.until("1 WAITS FOR YOU")
        await asker.until("asks there")
        await program.until(held)
        await owner.press("a")
        assert "echo one; while" in await owner.until("Type yes")
        await owner.answer("yes\r")
        await asker.until("running")
        await asker.until("output: one")
        await laptop.stop()
        await asker.until("the daemon is away")
        (place / "go").touch()
        await laptop.up()
        await asker.until("output: two")
        seen = await asker.until("succeeded")
        assert seen.count("output: one") == 1
        sleep = (await laptop.delegate("builder", "command:sleep", place)).task_id
        await owner.until("1 WAITS FOR YOU")
        await owner.press("a")
        await owner.answer("yes\r")
        await asker.until(sleep[-6:])
        await asker.press("k")
        await asker.until(f"{sleep} · running")
        await asker.press("c")
        await asker.answer("yes enough\r")
        await asker.until(f"{sleep} · cancelled")
        other = (await laptop.delegate("builder", "command:sleep", place, new=True)).task_id
        await owner.until("1 WAITS FOR YOU")
        await owner.press("a")
        await owner.answer("no not now\r")
        assert (await laptop.ended(other)).state is TaskState.DENIED
        await asker.until("denied")
    of_held = [change for change in program.changes if change["task_id"] == held]
    events = [c["event"] for c in of_held if c["change"] == "event"]
    assert [e["text"].strip() for e in events if e["kind"] == "output"] == ["one", "two"]
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    states = [c["state"] for c in of_held if c["change"] == "state"]
    assert states[-1] == "succeeded"
    assert len(states) == len(set(states))
