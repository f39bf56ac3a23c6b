"""Who a linked peer is now: asked about every few ticks, however many there are."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.upkeep import GLANCE_TICKS, GLANCES_MOST, Upkeep
from cmesh.errors import CmeshError, IdentityUnknown, NodeClosed
from cmesh.model import Identity, NodeId

pytestmark = pytest.mark.anyio

GRANTED = {"cmesh.dev/cap/dev": ({"runners": ["command:check"]},)}


class World:
    """Linked peers, and what whois says of each.

    Attributes:
        asked: addresses that whois was asked about.
        changed: peers that were looked at anew.
    """

    def __init__(self, count: int) -> None:
        self.identities = [
            Identity(node_id=NodeId(f"n{i}"), name=f"p{i}", addresses=(f"100.64.0.{i}",))
            for i in range(count)
        ]
        self.answers: dict[str, Identity | CmeshError] = {
            identity.addresses[0]: identity for identity in self.identities
        }
        self.asked: list[str] = []
        self.changed: list[NodeId] = []
        links = tuple(SimpleNamespace(identity=identity) for identity in self.identities)
        anything: Any = None
        parts: dict[str, Any] = {
            "links": SimpleNamespace(all=lambda: links),
            "presence": SimpleNamespace(node=SimpleNamespace(whois=self.whois)),
            "peers_changed": self._tell(),
        }
        names = ("rules", "trust", "worker", "caller", "identify", "may", "end_orphans")
        self.upkeep = Upkeep(**dict.fromkeys(names, anything), **parts, clock=SystemClock())

    def _tell(self) -> Callable[[Sequence[NodeId]], None]:
        return self.changed.extend

    async def whois(self, address: str) -> Identity:
        self.asked.append(address)
        answer = self.answers[address]
        if isinstance(answer, CmeshError):
            raise answer
        return answer

    async def glances(self, count: int) -> None:
        for _ in range(count):
            await self.upkeep.glance()


async def test_a_grant_that_comes_or_goes_alone_is_seen_within_few_ticks() -> None:
    world = World(7)
    await world.glances(GLANCE_TICKS)
    assert (sorted(world.asked), world.changed) == (sorted(world.answers), [])
    third = world.identities[3]
    world.answers[third.addresses[0]] = replace(third, capabilities=GRANTED)
    await world.glances(GLANCE_TICKS)
    assert world.changed == [third.node_id]


async def test_who_has_gone_is_looked_at_and_a_node_that_cannot_ask_says_nothing() -> None:
    world = World(2)
    world.answers = {
        "100.64.0.0": IdentityUnknown("nobody has it"),
        "100.64.0.1": NodeClosed("the node was closed"),
    }
    await world.glances(2)
    assert world.changed == [NodeId("n0")]


async def test_many_peers_are_asked_about_in_turn_and_never_all_at_once() -> None:
    world = World(10 * GLANCES_MOST)
    await world.glances(1)
    assert len(world.asked) == GLANCES_MOST
    await world.glances(9)
    assert len(set(world.asked)) == len(world.asked) == 10 * GLANCES_MOST
