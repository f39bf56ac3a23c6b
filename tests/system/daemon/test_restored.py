"""A worker whose files were put back to an older backup: it says so, and nothing runs twice."""

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cmesh.model import TaskState
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

REACHED_LIMIT_S = 90.0
"""A start, dials with their pauses, and a handshake that is lost, on a busy machine."""

LEDGER = ("/bin/sh", "-c", "echo $CMESH_TASK >> ledger; cat")
HELD = ("/bin/sh", "-c", "echo $CMESH_TASK >> ledger; while ! [ -e go ]; do sleep 0.05; done")
WAIT = "while ! [ -e {} ]; do sleep 0.05; done"
STEPS = ("/bin/sh", "-c", f"echo one; {WAIT.format('more')}; echo two; {WAIT.format('go')}")
RENEWED = "SELECT count(*) FROM audit WHERE kind = 'store_restored'"


def starts(worker: Machine) -> list[str]:
    ledger = worker.base / "app" / "ledger"
    return ledger.read_text("utf-8").split() if ledger.exists() else []


def copy(source: Path, target: Path) -> None:
    """Copy a state directory as a backup does, owners and times included."""
    subprocess.run(["/bin/cp", "-a", str(source), str(target)], check=True)


async def test_a_restored_worker_takes_a_new_incarnation_and_runs_nothing_twice(
    make_machine: MakeMachine, ground: Path
) -> None:
    place = ground / "worker" / "app"
    rule = inbound(place, ["command:ledger", "command:held"])
    caller = await make_machine("caller", OUTBOUND)
    worker = await make_machine(
        "worker", command("ledger", *LEDGER) + command("held", *HELD) + rule
    )
    worker.directory("app")
    await asyncio.gather(caller.up(), worker.up())
    first = await caller.delegate("worker", "command:ledger", place, prompt="first")
    await worker.trust(caller)
    await caller.ended(first.task_id)

    await worker.stop()
    copy(worker.state, worker.base / "backup")
    await worker.up()
    held = await caller.delegate("worker", "command:held", place, prompt="held")
    # Its result brings the caller a head that the backup does not have.
    second = await caller.delegate("worker", "command:ledger", place, prompt="second")
    await caller.ended(second.task_id)

    async def three() -> bool | None:
        return len(starts(worker)) == 3 or None

    await eventually(three)

    await worker.stop()
    shutil.rmtree(worker.state)
    copy(worker.base / "backup", worker.state)
    await worker.up()

    async def unknown() -> bool | None:
        return (await caller.task(held.task_id)).state is TaskState.UNKNOWN or None

    await eventually(unknown, REACHED_LIMIT_S)
    shown = await caller.task(held.task_id)
    assert (shown.code, "delegate it anew" in shown.reason) == ("store_replaced", True)
    assert await worker.sql(RENEWED) == [[1]]
    third = await caller.delegate("worker", "command:ledger", place, prompt="third", new=True)
    assert (await caller.ended(third.task_id)).state is TaskState.SUCCEEDED

    await worker.stop()
    await worker.up()
    fourth = await caller.delegate("worker", "command:ledger", place, prompt="fourth")
    assert (await caller.ended(fourth.task_id)).state is TaskState.SUCCEEDED
    assert await worker.sql(RENEWED) == [[1]]
    assert (await caller.task(held.task_id)).state is TaskState.UNKNOWN
    (place / "go").touch()
    ids = {first.task_id, held.task_id, second.task_id, third.task_id, fourth.task_id}
    assert sorted(starts(worker)) == sorted(ids)


async def test_a_worker_put_back_unnoticed_makes_one_task_unknown_and_keeps_its_link(
    make_machine: MakeMachine, ground: Path
) -> None:
    place = ground / "builder" / "app"
    rule = inbound(place, ["command:ledger", "command:steps"])
    caller = await make_machine("laptop", OUTBOUND)
    worker = await make_machine(
        "builder", command("ledger", *LEDGER) + command("steps", *STEPS) + rule
    )
    worker.directory("app")
    await asyncio.gather(caller.up(), worker.up())
    first = await caller.delegate("builder", "command:ledger", place, prompt="first")
    await worker.trust(caller)
    await caller.ended(first.task_id)

    async def told(events: int) -> None:
        async def so_many() -> bool | None:
            return (await caller.task(held.task_id)).last_event == events or None

        await eventually(so_many)

    held = await caller.delegate("builder", "command:steps", place, prompt="held")
    await told(2)
    # Within one connection, so that no head that the caller has is newer than the copy.
    os.kill(worker.pid, signal.SIGSTOP)
    copy(worker.state, worker.base / "backup")
    os.kill(worker.pid, signal.SIGCONT)
    (place / "more").touch()
    await told(3)

    await worker.stop()
    shutil.rmtree(worker.state)
    copy(worker.base / "backup", worker.state)
    await worker.up()

    async def unknown() -> bool | None:
        return (await caller.task(held.task_id)).state is TaskState.UNKNOWN or None

    await eventually(unknown, REACHED_LIMIT_S)
    shown = await caller.task(held.task_id)
    assert (shown.code, "delegate it anew" in shown.reason) == ("store_restored", True)
    second = await caller.delegate("builder", "command:ledger", place, prompt="second", new=True)
    assert (await caller.ended(second.task_id)).state is TaskState.SUCCEEDED
    assert await worker.sql(RENEWED) == [[0]]
    assert "peer_broke_protocol" not in worker.log_text() + caller.log_text()
    assert (await caller.task(held.task_id)).state is TaskState.UNKNOWN
    (place / "go").touch()
    assert sorted(starts(worker)) == sorted([first.task_id, second.task_id])
