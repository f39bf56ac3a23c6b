"""What a peer's tasks count for against its budgets of a day: the same from memory and from rows."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cmesh.model import DayUse, Direction, NodeId, TaskState, Usage
from cmesh.store.records import ResultRecord, StepRecord, TaskRecord
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import NOON, PEER, result, state, task

pytestmark = pytest.mark.anyio


def granted(record: TaskRecord) -> StepRecord:
    limits = {"runtime_s": 30, "cost_usd": 0.75, "tokens": 500, "of_a_newer_version": 1}
    return StepRecord(
        task_id=record.task_id, direction=record.direction, kind="fact", name="limits", data=limits
    )


def ended(record: TaskRecord, **changes: object) -> ResultRecord:
    told = result(record)
    return replace(told, result=replace(told.result, **changes))


async def test_it_is_what_was_told_else_all_that_was_given(
    open_store: OpenStore,
) -> None:
    told, cut, lost, never, other = (task(direction=Direction.IN) for _ in range(5))
    away = task(direction=Direction.IN, peer_id=NodeId("nOTHER"))
    running = [state(one, "running") for one in (told, cut, lost)]
    store = await open_store()
    await store.commit([told, cut, lost, never, other, away, task(), granted(cut), granted(lost)])
    await store.commit(
        [
            *running,
            ended(told),
            ended(cut, usage=Usage(tokens_in=100)),
            ended(lost, state=TaskState.INTERRUPTED, usage=Usage(), started_at=None),
            ended(never, state=TaskState.DENIED, usage=Usage(), started_at=None),
            ended(away),
        ]
    )
    # Told: 0.25 USD, 120 tokens, 4 s. Cut short and lost: what each was given.
    expected = DayUse(cost_usd=1.75, tokens=1120, runtime_s=38.0)
    assert store.used(PEER, NOON) == expected
    await store.close()
    store = await open_store()
    assert store.used(PEER, NOON) == expected
    assert store.used(PEER, NOON + timedelta(hours=12)) == DayUse()
