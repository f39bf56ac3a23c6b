"""Links that end and come back: a frozen daemon, a killed one, a node key that expired."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.daemon.answers import StatusView
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import ME, Machine, eventually, worker_user

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(120)]

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
# One line after the other until it is told to end: each is an event of its own.
COUNT = 'read n; i=0; while [ ! -e "stop-$n" ]; do i=$((i+1)); echo "$i"; sleep 0.4; done'


class Two:
    """`laptop` asks, `builder` works in `place`."""

    def __init__(self, laptop: Machine, builder: Machine, place: Path) -> None:
        self.laptop, self.builder, self.place = laptop, builder, place

    async def counting(self, name: str) -> str:
        """Start a task that tells numbers until `end`; return its id once some have come."""
        view = await self.laptop.delegate("builder", "command:count", self.place, prompt=name)
        await self.hears_more(view.task_id)
        return view.task_id

    async def hears_more(self, task_id: str) -> None:
        """Wait until the laptop has heard an event more than now."""
        before = (await self.laptop.task(task_id)).last_event

        async def has_heard() -> bool | None:
            return (await self.laptop.task(task_id)).last_event > before or None

        await eventually(has_heard)

    async def end(self, name: str, task_id: str) -> None:
        """End the task; both sides must hold the same events, in order and each once."""
        (self.place / f"stop-{name}").touch()
        assert (await self.laptop.ended(task_id)).state is TaskState.SUCCEEDED
        query = f"SELECT n, kind, text FROM events WHERE task_id = '{task_id}' ORDER BY seq"
        here, there = await self.laptop.sql(query), await self.builder.sql(query)
        assert [row[0] for row in here] == list(range(1, len(here) + 1))
        assert here == there


@pytest.fixture(scope="module")
async def two(ground: Path, testnet: Testnet) -> AsyncIterator[Two]:
    place = ground / "builder" / "app"
    text = command("count", "/bin/sh", "-c", COUNT.replace('"', '\\"'))
    laptop = Machine("laptop", ground, testnet, worker_user())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in (
            (laptop, OUTBOUND),
            (builder, text + inbound(place, ["command:count"])),
        ):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await asyncio.gather(builder.up(), laptop.up())
        made = Two(laptop, builder, place)
        view = await laptop.delegate("builder", "command:count", place, prompt="first")
        await builder.trust(laptop)
        await made.end("first", view.task_id)
        yield made


async def until(machine: Machine, holds: Callable[[StatusView], bool]) -> StatusView:
    async def look() -> StatusView | None:
        status = await machine.status()
        return status if holds(status) else None

    return await eventually(look)


async def test_events_of_a_task_come_once_and_in_order_over_freezes_and_kills(two: Two) -> None:
    task_id = await two.counting("broken")
    for machine in (two.laptop, two.builder):
        os.kill(machine.pid, signal.SIGSTOP)
        try:
            other = two.builder if machine is two.laptop else two.laptop
            await until(other, lambda status: status.links == 0)
        finally:
            os.kill(machine.pid, signal.SIGCONT)
        await two.hears_more(task_id)
    for machine in (two.laptop, two.builder):
        machine.kill()
        await machine.up()
        await two.hears_more(task_id)
    await two.end("broken", task_id)


async def test_a_task_goes_on_while_its_worker_s_node_key_has_expired_and_is_extended(
    two: Two, testnet: Testnet
) -> None:
    task_id = await two.counting("extended")
    await testnet.expire("builder", LONG_AGO)
    expired = await until(two.builder, lambda status: status.phase != "up")
    assert [problem.code for problem in expired.problems] == ["key_expired"]
    await until(two.laptop, lambda status: status.links == 0)
    await testnet.expire("builder", None)
    await until(two.builder, lambda status: status.phase == "up" and status.links == 1)
    await two.hears_more(task_id)
    await two.end("extended", task_id)


async def test_a_caller_whose_node_key_expired_loses_its_task_and_not_its_link(
    two: Two, testnet: Testnet
) -> None:
    # Without a right there is no task (`on_revoke`): that an expired key comes back is no reason.
    task_id = await two.counting("revoked")
    await testnet.expire("laptop", LONG_AGO)
    await until(two.laptop, lambda status: status.phase != "up" and status.links == 0)
    # A key that is good again before the builder has seen it expire would take no right away.
    assert (await two.builder.ended(task_id)).state is TaskState.CANCELLED
    await testnet.expire("laptop", None)
    await until(two.laptop, lambda status: status.phase == "up" and status.links == 1)
    assert (await two.laptop.ended(task_id)).state is TaskState.CANCELLED
    await two.end("after", await two.counting("after"))


@pytest.mark.parametrize("whose", ["laptop", "builder"])
async def test_an_expired_node_logs_in_again_within_its_daemon_and_links_resume(
    two: Two, testnet: Testnet, whose: str
) -> None:
    machine = two.laptop if whose == "laptop" else two.builder
    before = await machine.status()
    task_id = await two.counting(f"old-{whose}")
    await testnet.expire(whose, LONG_AGO)
    await until(machine, lambda status: status.phase != "up")
    # Both joined by an auth key that is used up, so only a page helps.
    shown = await asyncio.to_thread(machine.cli, "login", "--no-wait")
    assert shown.stdout.startswith("http"), shown.stderr
    await testnet.complete_login(shown.stdout.strip(), ME)
    await until(machine, lambda status: status.phase == "up")
    if whose == "builder":
        await two.hears_more(task_id)
        await two.end(f"old-{whose}", task_id)
    name = f"new-{whose}"
    await two.end(name, await two.counting(name))
    after = await machine.status()
    assert (after.pid, after.node_id, after.links) == (before.pid, before.node_id, 1)


async def test_both_sides_are_warned_two_weeks_before_a_node_key_expires(
    two: Two, testnet: Testnet
) -> None:
    task_id = await two.counting("soon")
    at = datetime.now(UTC).replace(microsecond=0)
    await testnet.expire("builder", at + timedelta(days=15))
    await until(two.builder, lambda status: status.key_expiry is not None)
    assert (await two.builder.status()).problems == []
    await testnet.expire("builder", at + timedelta(days=13))

    def is_warned(status: StatusView) -> bool:
        return [problem.code for problem in status.problems] == ["key_expires_soon"]

    assert "this node's key" in (await until(two.builder, is_warned)).problems[0].what
    assert "`builder`" in (await until(two.laptop, is_warned)).problems[0].what
    await testnet.expire("builder", None)
    for machine in (two.builder, two.laptop):
        await until(machine, lambda status: status.problems == [])
    await two.end("soon", task_id)
