"""Kill -9 of a whole daemon in the middle of `cmesh audit compact`: one whole store, and no word back."""

import asyncio
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.arguments import NoArguments
from cmesh.errors import CmeshError
from cmesh.paths import ensure_private_dir
from cmesh.store.compacting import NEW_NAME
from cmesh.store.store import Store
from tests.system.daemon.conftest import MakeMachine
from tests.system.daemon.machine import Machine, eventually, here
from tests.system.daemon.stopping import POINTS
from tests.unit.store.support import event, result, state, task

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

WORD = "COMPACTWORD"
EVENTS = 200
CHAIN = "SELECT count(*), max(seq), (SELECT count(*) FROM chain_bad) FROM audit"


async def erased(directory: Path) -> None:
    """Fill a store with a task whose texts were erased, and are in free blocks of its file still."""
    store = await Store.open(directory, clock=SystemClock(), node="nSELF")
    try:
        asked = task(prompt=WORD)
        events = [event(asked, number, "text", WORD) for number in range(1, EVENTS)]
        await store.commit([asked, *events, state(asked, "sent"), result(asked, text=WORD)])
        await store.forget([asked.task_id], {"by": "a test"})
        await store.erase_due(None)
    finally:
        await store.close()


async def whole(machine: Machine, seen: int) -> int:
    """Look that a store has every row that was there and nothing half; return its last row."""
    assert not list((machine.state / "store").glob(f"{NEW_NAME}*"))
    [[rows, last, wrong]] = await machine.sql(CHAIN)
    assert (rows, wrong) == (last, 0)
    assert last >= seen
    return last


async def test_a_daemon_that_is_killed_at_any_step_leaves_one_whole_store(
    make_machine: MakeMachine,
) -> None:
    machine = await make_machine("compacted", user=here())
    ensure_private_dir(machine.state)
    await erased(machine.state / "store")
    seen = 0
    for point in POINTS:
        mark = machine.base / point.replace(" ", "-")
        await machine.start(
            environment={"STOP_AT": point, "STOP_MARK": str(mark)},
            module="tests.system.daemon.stopping",
        )
        seen = await whole(machine, seen)
        asking = asyncio.ensure_future(machine.call("compact_store", NoArguments()))

        async def stands(mark: Path = mark) -> bool | None:
            return mark.exists() or None

        await eventually(stands)
        machine.kill()
        with pytest.raises(CmeshError):
            await asking
    await machine.start()
    await whole(machine, seen)
    for word in ("compact", "verify"):
        done = await asyncio.to_thread(machine.cli, "audit", word)
        assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in machine.state.rglob("*") if path.is_file()]
    assert not [path.name for path in files if WORD.encode() in path.read_bytes()]
    assert "Traceback" not in machine.log_text()
