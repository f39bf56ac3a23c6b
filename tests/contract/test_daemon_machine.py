"""Caller and worker under any order of losses, restarts, ends and cancels: the promises hold.

Each seed is one history; a failure names it, and the history can be run again.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmesh.model import TaskId
from tests.fakes.half import Half, StillClock, connect

pytestmark = pytest.mark.anyio

STEPS = 40
CALM_LIMIT_S = 30.0
SEEDS = range(8)


class World:
    def __init__(self, seed: int, base: Path) -> None:
        self.chance = random.Random(seed)
        self.clock = StillClock()
        self.asker = Half("asker", base, self.clock)
        self.doer = Half("doer", base, self.clock)
        self.tasks: list[TaskId] = []
        self.killed: set[TaskId] = set()
        self.history: list[str] = []

    async def step(self) -> None:
        acts = (
            [self.delegate] * 4 + [self.link] * 5 + [self.lose] * 2 + [self.finish] * 4
            + [self.cancel, self.kill_shim, self.restart_asker, self.restart_doer]
        )  # fmt: skip
        act = self.chance.choice(acts)
        self.history.append(act.__name__)
        await act()
        for half in (self.asker, self.doer):
            if self.chance.random() < 0.5:
                await half.quiet()

    async def delegate(self) -> None:
        self.tasks.append(await self.asker.delegate(self.doer, prompt=f"{len(self.tasks)}"))

    async def link(self) -> None:
        await connect(self.asker, self.doer)

    async def lose(self) -> None:
        if self.asker.wire is not None:
            self.asker.wire.lose()

    async def finish(self) -> None:
        running = self.doer.shims.running()
        if running:
            task_id = self.chance.choice(running)
            self.doer.shims.write(task_id, b"some words\n" * self.chance.randrange(3))
            self.doer.shims.finish(task_id, code=self.chance.randrange(2))

    async def cancel(self) -> None:
        if self.tasks:
            task = await self.asker.seen(self.chance.choice(self.tasks))
            if not task.terminal:
                await self.asker.caller.cancel(task, "no longer wanted")

    async def kill_shim(self) -> None:
        running = self.doer.shims.running()
        if running:
            task_id = self.chance.choice(running)
            self.killed.add(task_id)
            self.doer.shims.kill(task_id, survivors=self.chance.randrange(2))

    async def restart_asker(self) -> None:
        await self.asker.restart()

    async def restart_doer(self) -> None:
        await self.doer.stop()
        if self.chance.random() < 0.5:
            await self.finish()  # nobody looks
        await self.doer.start()

    async def calm(self) -> None:
        """Let nothing more go wrong, and everything end."""
        await connect(self.asker, self.doer)
        async with asyncio.timeout(CALM_LIMIT_S):
            while not all([(await self.asker.seen(task_id)).terminal for task_id in self.tasks]):
                for task_id in self.doer.shims.running():
                    ending = task_id in self.doer.shims.ended
                    self.doer.shims.finish(task_id, verdict="cancelled" if ending else "exited")
                # Whatever moves next moves some task; which one is not known here.
                await asyncio.sleep(0.01)
        for task_id in self.tasks:
            if await self.doer.store.task(task_id) is not None:
                await self.doer.acknowledged(task_id)


@pytest.fixture(params=SEEDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    made = World(request.param, tmp_path)
    for half in (made.asker, made.doer):
        await half.start()
    made.asker.known[made.doer.node_id] = made.doer.identity
    made.doer.known[made.asker.node_id] = made.asker.identity
    yield made
    for half in (made.asker, made.doer):
        await half.stop()


async def test_nothing_is_lost_or_doubled_and_both_sides_agree(world: World) -> None:
    for _ in range(STEPS):
        await world.step()
    await world.calm()
    assert world.tasks, world.history
    assert max(world.doer.shims.starts.values(), default=0) <= 1, world.history
    for task_id in world.tasks:
        here, there = await world.asker.seen(task_id), await world.doer.store.task(task_id)
        assert here.terminal, world.history
        if there is None:
            assert (here.state, world.doer.shims.starts[task_id]) == ("cancelled", 0)
            continue
        assert (here.state, here.result) == (there.state, there.result), world.history
        assert here.worker_signature == there.worker_signature
        assert here.caller_signature == there.caller_signature != ""
        assert (here.state == "interrupted") <= (task_id in world.killed), world.history
        numbers = [e.seq for e in await world.asker.store.events(task_id, after=0, limit=99)]
        assert numbers == list(range(1, here.last_event + 1)), world.history
    await world.doer.quiet()
    assert not world.asker.caller.owes(world.doer.node_id)
    assert not world.doer.worker.owes(world.asker.node_id)
    assert (world.doer.worker.running, world.doer.worker.waiting) == (0, 0)
    for half in (world.asker, world.doer):
        assert (await half.store.verify()).bad_seq is None
