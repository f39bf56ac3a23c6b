"""Tasks that ask for tasks: what a running one may hand on, and what becomes of its children."""

import socket
from dataclasses import replace
from typing import Any

import pytest

from cmesh.daemon.chains import (
    PARENT_ENDED,
    children_of,
    cost_left,
    end_orphans,
    parent,
    session_of,
)
from cmesh.errors import TaskRefused
from cmesh.model import Limits, NodeId, Profile, TaskId
from cmesh.policy.decide import OutboundRequest, decide_outbound
from cmesh.runner.egress.network import load
from cmesh.store.records import TaskSnapshot
from tests.fakes.half import Half, allowed
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio

OTHER = TaskId("00000000-0000-7000-8000-00000000000f")


def grant(half: Half, *, delegate: bool = True) -> str:
    """Return the doer's configuration with operation `delegate`, or without it."""
    rule = half.rule('limits = { runtime = "10m" }')
    return rule.replace('"follow_up"]', '"follow_up", "delegate"]') if delegate else rule


async def running(pair: Pair, **change: Any) -> TaskId:
    pair.doer.configure(grant(pair.doer))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer, **change)
    await pair.doer.until(task_id, "running")
    return task_id


async def child(half: Half, worker: Half, task_id: TaskId, **change: Any) -> TaskId:
    """Commit a task that `task_id` asks for; its worker is not told."""
    record = half.record(worker, origin=(worker.node_id, half.node_id), **change)
    record = replace(record, session=session_of(task_id))
    await half.caller.delegate(record, allowed(record))
    return record.task_id


async def test_a_running_task_holds_what_it_was_admitted_with_and_the_time_that_is_left(
    pair: Pair,
) -> None:
    task_id = await running(pair)
    pair.clock.passed_s += 60
    asker = await parent(pair.doer.parts, task_id)
    assert asker.held.may_delegate
    assert asker.held.profile is Profile.FULL
    assert asker.held.runners == ("command:x",)
    assert asker.held.directory == asker.directory == str(pair.doer.place)
    assert asker.held.limits.runtime_s == 540
    assert asker.chain == (pair.asker.node_id, pair.doer.node_id)


async def test_who_loses_the_grant_while_it_runs_hands_nothing_on(pair: Pair) -> None:
    task_id = await running(pair)
    pair.doer.configure(grant(pair.doer, delegate=False))
    assert not (await parent(pair.doer.parts, task_id)).held.may_delegate


async def test_a_task_at_the_end_of_a_long_chain_goes_no_further(pair: Pair) -> None:
    origin = tuple(map(NodeId, ("n1", "n2", "n3")))
    task_id = await running(pair, origin=origin)
    asker = await parent(pair.doer.parts, task_id)
    assert len(asker.chain) == 5
    request = OutboundRequest(
        identity=replace(pair.asker.identity, node_id=NodeId("nNEXT")),
        profile=Profile.FULL,
        runner="command:x",
        project=asker.directory,
        prompt_bytes=1,
        sends_changes=False,
        chain=asker.chain,
        self_id=pair.doer.node_id,
        held=asker.held,
    )
    decision = decide_outbound(request, pair.doer.rules.policy())
    assert decision.effect == "deny"
    assert "5 callers" in decision.reason


async def test_an_endpoint_is_there_from_the_start_of_a_task_to_its_end(pair: Pair) -> None:
    task_id = await running(pair)
    network = load(pair.doer.base / "tasks" / task_id / "network.json")
    assert network is not None
    assert (network.listens, network.outside) == (True, False)
    await pair.doer.restart()
    await pair.connect()
    assert pair.doer.parts.networks.endpoints.is_open(task_id)
    with socket.create_connection(("127.0.0.1", network.port), 5):
        pass
    pair.doer.shims.finish(task_id)
    pair.doer.worker.changed(task_id)
    await pair.doer.until(task_id, "succeeded", "failed")
    await pair.doer.settled(task_id)
    assert pair.doer.ended == [task_id]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", network.port), 5)
    with pytest.raises(TaskRefused):
        await parent(pair.doer.parts, task_id)


async def test_without_the_grant_a_task_has_no_network_and_no_endpoint(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    assert load(pair.doer.base / "tasks" / task_id / "network.json") is None
    with pytest.raises(TaskRefused):
        await parent(pair.doer.parts, task_id)


async def test_the_children_of_ended_tasks_are_cancelled_and_no_others(pair: Pair) -> None:
    doer, asker = pair.doer, pair.asker
    task_id = await running(pair)
    asker.wire.abort() if asker.wire else None
    own = await child(doer, asker, task_id)
    lost = await child(doer, asker, OTHER)
    people = await doer.delegate(asker)
    await end_orphans(doer.store, doer.caller)

    async def state(of: TaskId) -> TaskSnapshot:
        await doer.settled(of)
        return await doer.seen(of)

    assert "cancel_wish" not in (await state(own)).facts
    assert not (await state(own)).terminal
    ended = await state(lost)
    assert ended.terminal or "cancel_wish" in ended.facts
    assert not (await state(people)).terminal
    assert [one.record.task_id for one in await children_of(doer.store, task_id)] == [own]
    if ended.terminal:
        assert ended.reason == PARENT_ENDED


async def test_money_is_shared_among_the_children(pair: Pair) -> None:
    task_id = await running(pair)
    spec = Limits(cost_usd=1.5)
    assert (await parent(pair.doer.parts, task_id)).held.limits.cost_usd is None
    await child(pair.doer, pair.asker, task_id, limits=spec)
    found = await children_of(pair.doer.store, task_id)
    assert cost_left(5.0, found) == 3.5
    assert cost_left(1.0, found) == 0.0
    assert cost_left(None, found) is None
