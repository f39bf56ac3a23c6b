"""Daemons and shims killed while a task runs: nothing is lost, nothing runs twice."""

import asyncio
import os
import random
import signal

import pytest

from cmesh.model import TaskState
from cmesh.runner.shim_processes import task_processes
from tests.chaos.conftest import Field
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(120)]

TASKS = 20
KILLS = 4
SEED = 20


@pytest.mark.parametrize("killed", ["builder", "laptop", "both"])
async def test_a_task_survives_the_daemons_that_know_of_it(field: Field, killed: str) -> None:
    name = f"kill-{killed}"
    view = await field.held(name)
    machines = {"builder": [field.builder], "laptop": [field.laptop]}
    for machine in machines.get(killed, [field.builder, field.laptop]):
        machine.kill()
    field.release(name)
    await asyncio.gather(field.builder.up(), field.laptop.up())
    ended = await field.same_on_both_sides(view.task_id)
    assert (ended.state, ended.witness) == (TaskState.SUCCEEDED, "shim recorded exit 0")
    assert field.starts().count(name) == 1


async def test_a_stop_by_the_service_manager_ends_no_task(field: Field) -> None:
    view = await field.held("sigterm")
    await field.builder.stop()
    await field.builder.up()
    assert (await field.builder.task(view.task_id)).state is TaskState.RUNNING
    field.release("sigterm")
    ended = await field.same_on_both_sides(view.task_id)
    assert (ended.state, field.starts().count("sigterm")) == (TaskState.SUCCEEDED, 1)


async def test_a_killed_shim_is_an_interrupted_task_with_no_process_left(field: Field) -> None:
    view = await field.held("shim")
    os.kill(field.shim_pid(view.task_id), signal.SIGKILL)
    ended = await field.same_on_both_sides(view.task_id)
    assert (ended.state, ended.code) == (TaskState.INTERRUPTED, "interrupted")
    assert "zero processes" in ended.witness
    assert field.starts().count("shim") == 1


async def test_a_shim_killed_without_its_daemon_is_interrupted_too(field: Field) -> None:
    view = await field.held("shim-alone")
    field.builder.kill()
    os.kill(field.shim_pid(view.task_id), signal.SIGKILL)
    await field.builder.up()
    ended = await field.same_on_both_sides(view.task_id)
    assert (ended.state, field.starts().count("shim-alone")) == (TaskState.INTERRUPTED, 1)


async def test_a_frozen_peer_costs_the_link_and_not_the_task(field: Field) -> None:
    view = await field.held("frozen")
    os.kill(field.builder.pid, signal.SIGSTOP)
    try:

        async def is_down() -> bool | None:
            return (await field.laptop.status()).links == 0 or None

        await eventually(is_down)
        field.release("frozen")
    finally:
        os.kill(field.builder.pid, signal.SIGCONT)
    ended = await field.same_on_both_sides(view.task_id)
    assert (ended.state, field.starts().count("frozen")) == (TaskState.SUCCEEDED, 1)


async def test_random_kills_lose_nothing_and_double_nothing(field: Field) -> None:
    names = [f"random-{number}" for number in range(TASKS)]
    chance = random.Random(SEED)
    views = {name: await field.delegate("quick", name) for name in names}
    for _ in range(KILLS):
        machine: Machine = chance.choice([field.builder, field.laptop])
        done = len([name for name in field.starts() if name in views])

        async def has_moved(before: int = done) -> bool | None:
            now = len([name for name in field.starts() if name in views])
            return now > before or now == TASKS or None

        await eventually(has_moved)
        machine.kill()
        await machine.up()
    account = "SELECT state, receipt, count(*) FROM tasks WHERE prompt LIKE 'random-%' GROUP BY ALL"
    # Only the death of a shim could cost a run, and none was killed.
    wanted = [["succeeded", "complete", TASKS]]
    for machine in (field.laptop, field.builder):

        async def is_settled(machine: Machine = machine) -> bool | None:
            return await machine.sql(account) == wanted or None

        await eventually(is_settled)
    assert sorted(name for name in field.starts() if name in views) == sorted(names)
    assert all(task_processes(view.task_id, 0) == set() for view in views.values())
