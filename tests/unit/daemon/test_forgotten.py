"""A worker whose store was put back to an older copy, which no peer's head shows."""

import asyncio
import shutil
from pathlib import Path

import pytest

from cmesh.daemon.refusals import RESTORED_RETRY_S
from cmesh.model import TaskId, TaskState
from tests.fakes.half import SETTLE_LIMIT_S, Half
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio


def copy(half: Half, to: Path) -> Path:
    """Copy the store of a half that does not run."""
    shutil.copytree(half.base / "store", to)
    return to


def put_back(half: Half, backup: Path) -> None:
    shutil.rmtree(half.base / "store")
    shutil.copytree(backup, half.base / "store")


async def heard(half: Half, task_id: TaskId, events: int) -> None:
    """Wait until a caller has so many events of a task."""
    async with asyncio.timeout(SETTLE_LIMIT_S):
        while (await half.seen(task_id)).last_event < events:
            await half.news.next(task_id)


async def test_a_worker_that_is_short_of_events_keeps_its_link_and_its_other_tasks(
    pair: Pair, tmp_path: Path
) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.write(task_id, b"one\n")
    await heard(pair.asker, task_id, 2)
    await pair.doer.stop()
    backup = copy(pair.doer, tmp_path / "backup")
    await pair.doer.start()
    await pair.connect()
    pair.doer.shims.write(task_id, b"two\n")
    await heard(pair.asker, task_id, 3)
    await pair.doer.stop()
    put_back(pair.doer, backup)
    pair.doer.shims.cut_spool(task_id, len(b"one\n"))
    await pair.doer.start()
    await pair.connect()
    link = pair.asker.link
    told = await pair.asker.until(task_id, "unknown")
    assert (told.public_state, told.code) == (TaskState.UNKNOWN, "store_restored")
    assert "doer" in told.reason

    other = await pair.asker.delegate(pair.doer, prompt="another")
    await pair.doer.until(other, "running")
    pair.doer.shims.finish(other)
    await pair.asker.until(other, "succeeded")
    assert pair.asker.link is link

    # The same shim goes on, and its word reaches beyond what had been told.
    pair.doer.shims.write(task_id, b"two\nthree\n")
    pair.doer.shims.finish(task_id)
    await pair.doer.until(task_id, "succeeded")
    assert (await pair.asker.seen(task_id)).state == "unknown"
    # A link may last for weeks: it is asked again over this one.
    pair.clock.passed_s += RESTORED_RETRY_S
    await pair.asker.caller.retry()
    assert pair.asker.link is link
    ended = await pair.asker.until(task_id, "succeeded")
    assert (ended.last_event, pair.doer.shims.starts[task_id]) == (4, 1)
    events = await pair.asker.store.events(task_id, after=0, limit=9)
    assert [event.seq for event in events] == [1, 2, 3, 4]


async def test_a_task_that_a_worker_had_taken_and_lost_is_neither_asked_for_nor_ended(
    pair: Pair, tmp_path: Path
) -> None:
    await pair.doer.stop()
    backup = copy(pair.doer, tmp_path / "backup")
    await pair.doer.start()
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.asker.until(task_id, "accepted")
    await pair.doer.until(task_id, "running")
    await pair.doer.stop()
    put_back(pair.doer, backup)
    await pair.doer.start()
    await pair.connect()
    told = await pair.asker.until(task_id, "unknown")
    assert (told.public_state, told.code) == (TaskState.UNKNOWN, "task_not_found")
    await pair.asker.caller.cancel(told, "not wanted any more")
    for _ in range(2):
        await pair.connect()
        await pair.asker.settled(task_id)
        await pair.doer.quiet()
    assert await pair.doer.store.task(task_id) is None
    assert (await pair.asker.seen(task_id)).state == "unknown"
    assert pair.doer.shims.starts[task_id] == 1
