"""Tasks of any age: found by what is asked of them, one's rows, and the figures of a span."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cmesh.model import Direction, NodeId, TaskState
from cmesh.store.history import Wanted
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import (
    NOON,
    FixedClock,
    decision,
    event,
    fact,
    result,
    state,
    task,
)

pytestmark = pytest.mark.anyio


async def test_tasks_are_found_by_what_is_asked_of_them(
    open_store: OpenStore, clock: FixedClock
) -> None:
    store = await open_store()
    old = task(prompt="Why did the DEPLOY fail?")
    failed = task(prompt="list the tables", peer_id=NodeId("nOTHER"))
    refused = replace(task(direction=Direction.IN, prompt="100% of _it_"), peer="Mac.example.com")
    await store.commit([old, result(old)])
    clock.advance(3600)
    await store.commit([failed, result(failed, TaskState.FAILED)])
    await store.commit([refused, state(refused, "denied")])

    async def ids(**asked: object) -> list[str]:
        wanted = Wanted(**asked)  # pyright: ignore[reportArgumentType]
        found = await store.found(wanted, 10)
        # Memory and rows answer alike.
        assert [one.record for one in found if not wanted.fits(one)] == []
        return [one.record.task_id for one in found]

    everything = [one.spec.task_id for one in (refused, failed, old)]
    assert await ids() == everything
    assert await ids(end=TaskState.FAILED) == [everything[1]]
    assert await ids(end=TaskState.DENIED) == [everything[0]]
    assert await ids(text="deploy F") == [everything[2]]
    assert await ids(text="0% of _") == [everything[0]]
    assert await ids(text="%") == [everything[0]]
    assert await ids(peer="mac") == await ids(peer="MAC.example.com") == [everything[0]]
    assert await ids(peer="nOTHER", direction=Direction.OUT) == [everything[1]]
    assert await ids(runner="command:look", direction=Direction.IN) == [everything[0]]
    assert await ids(runner="claude") == []
    assert await ids(since=NOON + timedelta(seconds=1)) == everything[:2]
    assert await ids(until=NOON + timedelta(seconds=1)) == everything[2:]
    [newest, second] = await store.found(Wanted(), 2)
    assert [newest.record.task_id, second.record.task_id] == everything[:2]
    assert await ids(before=second.seq) == everything[2:]


async def test_one_task_is_told_with_its_states_facts_and_decisions(
    open_store: OpenStore,
) -> None:
    store = await open_store()
    one, other = task(), task()
    await store.commit([decision(one, "allow"), one, other, decision(other)])
    await store.commit([state(one, "sent", witness="may have been sent"), fact(one, "cancel_wish")])
    await store.commit([event(one, 1, "running"), event(one, 2), result(one, TaskState.FAILED)])
    kept = await store.history(one.spec.task_id)
    assert [(step.kind, step.name, step.told) for step in kept.steps] == [
        ("state", "sent", False),
        ("fact", "cancel_wish", False),
        ("state", "running", True),
        ("state", "failed", False),
    ]
    assert kept.steps[0].witness == "may have been sent"
    assert kept.steps[2].ts == NOON + timedelta(seconds=1)
    [decided] = kept.decisions
    assert (decided.effect, decided.failed[0]["condition"]) == ("allow", "paths")


async def test_the_figures_are_of_the_asked_time(open_store: OpenStore, clock: FixedClock) -> None:
    store = await open_store()
    old, asked, worked, refused = task(), task(), task(direction=Direction.IN), task()
    await store.commit([old, result(old)])
    clock.advance(60)
    untold = replace(
        result(worked).result, usage=replace(result(worked).result.usage, cost_usd=None)
    )
    await store.commit([asked, state(asked, "succeeded"), result(asked), worked, refused])
    await store.commit([replace(result(worked), result=untold), state(refused, "denied")])
    found = await store.figures(NOON + timedelta(seconds=30))
    assert (found.asked, found.worked) == (2, 1)
    assert found.ended == {"succeeded": 2, "denied": 1}
    assert (found.cost_usd, found.tokens, found.untold) == (0.25, 240, 1)
    none = await store.figures(NOON + timedelta(days=1))
    assert (none.asked, none.ended, none.cost_usd, none.tokens) == (0, {}, None, None)
