"""A peer that is no longer allowed: what it had asked and has not started does not start."""

# pyright: reportPrivateUsage=false

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon import inbounds, requests
from cmesh.daemon.core import Daemon
from cmesh.daemon.trust import Trust
from cmesh.errors import PeerUntrusted, PolicyDenied
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.store.store import Store
from tests.unit.daemon.conftest import Pair
from tests.unit.daemon.test_halves import Recorded, accepted, submit

pytestmark = pytest.mark.anyio

STAY = 'on_revoke = "stay"'


class Slow:
    """Decisions on submits that take until `go`; `begun` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        admit = inbounds.admit

        async def admitted(*asked: Any) -> Any:
            self.begun += 1
            decision = await admit(*asked)
            await self.go.wait()
            return decision

        monkeypatch.setattr(inbounds, "admit", admitted)

    async def until(self, begun: int) -> None:
        while self.begun < begun:
            await asyncio.sleep(0)


async def full(pair: Pair) -> tuple[TaskId, TaskId]:
    """Take both places of the worker."""
    await pair.connect()
    first, second = await accepted(pair, "first"), await accepted(pair, "second")
    await pair.doer.until(second, "running")
    return first, second


@pytest.mark.parametrize("how", ["the rule", "the key"])
async def test_a_task_that_waits_for_a_place_ends_where_a_running_one_may_stay(
    pair: Pair, how: str
) -> None:
    pair.doer.configure(pair.doer.rule(STAY))
    first, second = await full(pair)
    third = await accepted(pair, "third")
    if how == "the rule":
        pair.doer.configure(pair.doer.rule(STAY).replace("me@example.com", "you@example.com"))
        await pair.doer.worker.recheck(pair.asker.node_id)
    else:
        code, peer_id = PeerUntrusted.code, pair.asker.node_id
        assert await pair.doer.worker.revoke(peer_id, code, "taken back") == [third]
    ended = await pair.asker.until(third, "cancelled")
    assert ended.code == (PolicyDenied.code if how == "the rule" else PeerUntrusted.code)
    for task_id in (first, second):
        pair.doer.shims.finish(task_id)
        await pair.asker.until(task_id, "succeeded")
    assert pair.doer.shims.starts[third] == 0


async def test_what_a_peer_asked_before_its_key_was_taken_back_never_starts(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await full(pair)
    slow, link = Slow(monkeypatch), Recorded(pair.asker)
    asked = [submit(pair.asker, pair.doer) for _ in range(4)]
    for message in asked:
        assert pair.doer.worker.take(cast("Link", link), message)
    await slow.until(requests.ADMITTED_AT_ONCE)
    link.turned_away = True  # as `Links.drop` does first
    revoking = asyncio.create_task(
        pair.doer.worker.revoke(pair.asker.node_id, PeerUntrusted.code, "taken back")
    )
    slow.go.set()
    ended = await revoking
    await pair.doer.quiet()
    begun, queued = asked[: slow.begun], asked[slow.begun :]
    assert slow.begun == requests.ADMITTED_AT_ONCE
    # Those that are decided side by side have no order.
    assert sorted(ended) == sorted([first, second, *(message.task_id for message in begun)])
    for message in begun:
        task = await pair.doer.until(TaskId(message.task_id), "cancelled")
        assert (task.code, pair.doer.shims.starts[TaskId(message.task_id)]) == (
            PeerUntrusted.code,
            0,
        )
    for message in queued:
        assert await pair.doer.store.task(TaskId(message.task_id)) is None


async def test_what_was_decided_by_who_the_peer_was_is_looked_at_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(pair)
    slow, link, message = (
        Slow(monkeypatch),
        Recorded(pair.asker),
        submit(pair.asker, pair.doer),
    )
    assert pair.doer.worker.take(cast("Link", link), message)
    await slow.until(1)
    peer_id = pair.asker.node_id
    pair.doer.known[peer_id] = replace(pair.asker.identity, user="you@example.com")
    looking = asyncio.create_task(pair.doer.worker.recheck(peer_id))
    slow.go.set()
    await looking
    ended = await pair.doer.until(TaskId(message.task_id), "cancelled")
    assert ended.code == PolicyDenied.code


async def test_a_link_whose_peer_lost_its_trust_during_the_handshake_is_not_used(
    pair: Pair,
) -> None:
    daemon = SimpleNamespace(trust=Trust(cast("Store", None)))  # nobody is trusted
    link = SimpleNamespace(identity=pair.asker.identity)
    with pytest.raises(PeerUntrusted):
        await Daemon.connected(cast("Daemon", daemon), cast("Link", link))
