"""Facts that move a task's numbers, told alike from memory and from the database."""

import pytest

from cmesh.model import TaskState
from cmesh.store.records import StepRecord
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import event, fact, state, task

pytestmark = pytest.mark.anyio


async def test_a_gap_moves_the_last_event_also_after_a_restart(open_store: OpenStore) -> None:
    store = await open_store()
    asked = task()
    gap = StepRecord(
        task_id=asked.task_id,
        direction=asked.direction,
        kind="fact",
        name="gap",
        data={"through_seq": 7},
    )
    await store.commit([asked, event(asked, 1), gap])
    for again in range(2):
        found = await store.task(asked.task_id)
        assert found is not None
        assert found.last_event == 7
        if not again:
            await store.close()
            store = await open_store()
    await store.commit([event(asked, 8)])
    found = await store.task(asked.task_id)
    assert found is not None
    assert found.last_event == 8


async def test_an_approval_that_is_waited_for_is_shown_until_more_is_told(
    open_store: OpenStore,
) -> None:
    store = await open_store()
    asked = task()
    await store.commit([asked, state(asked, "accepted"), fact(asked, "waiting_approval")])
    found = await store.task(asked.task_id)
    assert found is not None
    assert found.public_state is TaskState.WAITING_APPROVAL
    await store.commit([event(asked, 1, "queued")])
    found = await store.task(asked.task_id)
    assert found is not None
    assert found.public_state is TaskState.QUEUED
