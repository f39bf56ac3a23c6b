"""Which of two links to a peer stands."""

# pyright: reportPrivateUsage=false

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from cmesh.daemon.links import Links
from cmesh.daemon.presence import Presence
from cmesh.keys import SigningKey
from cmesh.link.link import Link
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.handshake import Side as SessionSide
from cmesh.protocol.messages import May, Message
from cmesh.protocol.session import Introduced, Opened
from tests.fakes.half import StillClock
from tests.fakes.wire import MemoryWire, wire_pair

pytestmark = pytest.mark.anyio


class Idle:
    def __init__(self) -> None:
        self.down: list[Link] = []

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, list[TaskId]]:
        return May(), []

    def owes(self, peer_id: NodeId) -> bool:
        return False

    async def connected(self, link: Link) -> None:
        pass

    def disconnected(self, link: Link) -> None:
        self.down.append(link)

    def take(self, link: Link, message: Message) -> None:
        pass

    def take_chunk(self, link: Link, chunk: Chunk) -> None:
        pass


class Place:
    def __init__(self, name: str, clock: StillClock) -> None:
        self.id = NodeId(name)
        self.side = Idle()
        self.links = Links(
            cast("Presence", SimpleNamespace(node_id=self.id)),
            self.side,
            key=SigningKey((name[-1] * 32).encode()),
            incarnation=f"store-{name}",
            clock=clock,
        )

    def end(self, wire: MemoryWire, peer: "Place", side: SessionSide) -> Link:
        identity = Identity(node_id=peer.id, name=f"{peer.id}.test")
        return Link(cast("Wire", wire), self.links._session(side, identity), identity)


async def cross(
    a: Place, b: Place, clock: StillClock, *, seconds: float, later_first: bool
) -> tuple[tuple[Link, Link], tuple[Link, Link]]:
    """Let `a` dial `b`, and `b` dial `a`; return both links, each as `a` and `b` have it."""
    (a1, b1), (a2, b2) = wire_pair(), wire_pair()
    first = (a.end(a1, b, "dialler"), b.end(b1, a, "acceptor"))
    second = (a.end(a2, b, "acceptor"), b.end(b2, a, "dialler"))
    order = [(a, first[0]), (a, second[0]), (b, first[1]), (b, second[1])]
    opens = {link: link.open(place.side.greet) for place, link in order}
    opened = dict(zip(opens, await asyncio.gather(*opens.values()), strict=True))

    async def already(link: Link) -> Opened:
        return opened[link]

    # Each side sees them end their handshake in its own order.
    theirs = (second[1], first[1]) if later_first else (first[1], second[1])
    for place, links in ((a, (first[0], second[0])), (b, theirs)):
        for link in links:
            link.open = lambda introduce, link=link: already(link)
            await place.links._opened(link)
            clock.passed_s += seconds
    return first, second


@pytest.mark.parametrize("later_first", [True, False])
@pytest.mark.parametrize("names", [("nA", "nB"), ("nB", "nA")])
async def test_dials_that_cross_leave_the_same_link_on_both_sides(
    names: tuple[str, str], *, later_first: bool
) -> None:
    clock = StillClock()
    a, b = Place(names[0], clock), Place(names[1], clock)
    first, second = await cross(a, b, clock, seconds=0.1, later_first=later_first)
    kept = first if a.id < b.id else second  # dialled by the smaller node id
    assert (a.links.get(b.id), b.links.get(a.id)) == kept
    await a.links.close()
    await b.links.close()


async def test_a_later_link_replaces_one_that_may_be_dead() -> None:
    clock = StillClock()
    a, b = Place("nA", clock), Place("nB", clock)
    first, second = await cross(a, b, clock, seconds=60, later_first=False)
    assert (a.links.get(b.id), b.links.get(a.id)) == second
    assert (a.side.down, b.side.down) == ([first[0]], [first[1]])
    await a.links.close()
    await b.links.close()
