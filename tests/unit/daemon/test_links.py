"""Which of two links to a peer stands."""

# pyright: reportPrivateUsage=false

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from cmesh.daemon.contacts import BACKOFF_MOST_S, UNREACHABLE_MOST_S
from cmesh.daemon.links import BACKOFF_FIRST_S, BRIEF_MOST, Links
from cmesh.daemon.presence import Presence
from cmesh.errors import CmeshError, LinkError, NotCmesh, PeerUnreachable, RemoteProtocolError
from cmesh.keys import SigningKey
from cmesh.link import link as link_module
from cmesh.link.link import Link, Receiver
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.handshake import Side as SessionSide
from cmesh.protocol.link_messages import Failure, May
from cmesh.protocol.messages import Message
from cmesh.protocol.session_events import Introduced, Opened
from cmesh.rate import Bucket
from tests.fakes.half import StillClock
from tests.fakes.wire import MemoryWire, wire_pair

pytestmark = pytest.mark.anyio

ATTEMPTS = 12


class Idle:
    def __init__(self) -> None:
        self.down: list[Link] = []

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, list[TaskId]]:
        return May(), []

    async def pair(self, wire: Wire, identity: Identity) -> None:
        pass

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
            incarnation=lambda: f"store-{name}",
            seen=lambda _: None,
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


async def pauses_of(
    place: Place, dial: Callable[[NodeId], Awaitable[Link]], monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """Return the pauses between attempts to reach `nB` that end as `dial` does."""
    pauses: list[float] = []
    enough = asyncio.Event()

    async def pause(peer_id: NodeId, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == ATTEMPTS:
            enough.set()
        await asyncio.sleep(0)

    def owes(_peer_id: NodeId) -> bool:
        return True

    monkeypatch.setattr(place.links, "_dial_once", dial)
    monkeypatch.setattr(place.links, "_pause", pause)
    monkeypatch.setattr(place.side, "owes", owes)
    place.links.want(NodeId("nB"))
    async with asyncio.timeout(5):
        await enough.wait()
    await place.links.close()
    return pauses


@pytest.mark.parametrize(
    ("error", "heard", "most"),
    [
        (PeerUnreachable("no answer"), False, UNREACHABLE_MOST_S),
        (NotCmesh("no"), False, BACKOFF_MOST_S),
        (NotCmesh("no"), True, UNREACHABLE_MOST_S),
    ],
)
async def test_a_peer_that_does_not_answer_is_tried_again_soon_however_long_it_was_away(
    monkeypatch: pytest.MonkeyPatch, error: CmeshError, heard: bool, most: float
) -> None:
    place = Place("n1", StillClock())
    if heard:
        place.links._contacts.of(NodeId("nB")).at = StillClock().now()

    async def fails(peer_id: NodeId) -> Link:
        raise error

    pauses = await pauses_of(place, fails, monkeypatch)
    assert pauses[0] == BACKOFF_FIRST_S
    assert pauses[ATTEMPTS - 1] == most


@pytest.mark.parametrize(("answers", "most"), [(False, UNREACHABLE_MOST_S), (True, BACKOFF_MOST_S)])
async def test_a_handshake_without_an_answer_is_tried_again_soon_and_a_refused_one_later(
    monkeypatch: pytest.MonkeyPatch, most: float, *, answers: bool
) -> None:
    clock = StillClock()
    place, peer = Place("nA", clock), Place("nB", clock)
    theirs: list[asyncio.Task[bool]] = []
    if not answers:
        monkeypatch.setattr(link_module, "HANDSHAKE_LIMIT_S", 0.0)

    async def refuses(identity: Identity, introduced: Introduced) -> tuple[May, list[TaskId]]:
        raise CmeshError("for a reason that this version does not know")

    async def dials(peer_id: NodeId) -> Link:
        ours, other = wire_pair()
        if answers:
            end = peer.end(other, place, "acceptor")
            theirs.append(asyncio.create_task(peer.links._opened(end)))
        return place.end(ours, peer, "dialler")

    monkeypatch.setattr(peer.side, "greet", refuses)
    pauses = await pauses_of(place, dials, monkeypatch)
    assert pauses[ATTEMPTS - 1] == most
    assert not any(await asyncio.gather(*theirs))
    await peer.links.close()


@pytest.mark.parametrize(
    ("error", "told", "most"),
    [
        (LinkError("the link broke"), False, UNREACHABLE_MOST_S),
        (LinkError("the peer closed the link"), True, BACKOFF_MOST_S),
        (RemoteProtocolError("the peer broke the protocol"), False, BACKOFF_MOST_S),
        (None, False, BACKOFF_MOST_S),
    ],
)
async def test_after_a_line_that_flapped_a_peer_is_dialled_soon_and_after_a_refusal_later(
    monkeypatch: pytest.MonkeyPatch, error: CmeshError | None, most: float, *, told: bool
) -> None:
    clock = StillClock()
    place, peer = Place("nA", clock), Place("nB", clock)
    pauses: list[float] = []
    paused = asyncio.Event()

    async def pause(peer_id: NodeId, seconds: float) -> None:
        pauses.append(seconds)
        paused.set()
        await asyncio.Event().wait()

    def owes(_peer_id: NodeId) -> bool:
        return True

    for _ in range(BRIEF_MOST):
        await cross(place, peer, clock, seconds=60, later_first=False)
        link = place.links.get(peer.id)
        assert link is not None

        async def run(receiver: Receiver, pace: Bucket, link: Link = link) -> None:
            if told:
                receiver.on_message(link, Failure(code="policy_denied", reason="no"))
            if error is not None:
                raise error

        monkeypatch.setattr(link, "run", run)
        await place.links._run(link)
    monkeypatch.setattr(place.links, "_pause", pause)
    monkeypatch.setattr(place.side, "owes", owes)
    place.links.want(peer.id)
    async with asyncio.timeout(5):
        await paused.wait()
    await place.links.close()
    await peer.links.close()
    assert pauses == [most]


async def test_a_new_link_of_a_peer_is_read_at_the_pace_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, paces = StillClock(), list[Bucket | None]()
    a, b = Place("nA", clock), Place("nB", clock)

    async def run(link: Link, receiver: object, pace: Bucket | None = None) -> None:
        paces.append(pace)

    monkeypatch.setattr(Link, "run", run)
    for link in await cross(a, b, clock, seconds=60, later_first=False):
        await a.links._run(link[0])
    assert isinstance(paces[0], Bucket)
    assert paces[0] is paces[1]
    await a.links.close()
    await b.links.close()


@pytest.mark.parametrize("restarts", [True, False])
async def test_who_asks_a_peer_that_restarts_waits_over_failed_attempts(
    monkeypatch: pytest.MonkeyPatch, *, restarts: bool
) -> None:
    place, peer = Place("n1", StillClock()), NodeId("n2")
    place.links.contact(peer).restarting_until = 60.0 if restarts else 0.0
    attempts = 0

    async def fails(peer_id: NodeId) -> Link:
        nonlocal attempts
        attempts += 1
        if attempts == ATTEMPTS:  # it is back, or said to be away for good
            place.links.contact(peer_id).restarting_until = 0.0
        raise NotCmesh("nobody listens")

    def owes(_peer_id: NodeId) -> bool:
        return True

    async def pause(peer_id: NodeId, seconds: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(place.links, "_dial_once", fails)
    monkeypatch.setattr(place.links, "_pause", pause)
    monkeypatch.setattr(place.side, "owes", owes)
    async with asyncio.timeout(5):
        await place.links.attempt(peer, 60.0)
    assert attempts >= ATTEMPTS if restarts else attempts < ATTEMPTS
    await place.links.close()


@pytest.mark.parametrize("online", [True, False])
async def test_who_asks_a_peer_that_is_online_waits_over_attempts_without_an_answer(
    monkeypatch: pytest.MonkeyPatch, *, online: bool
) -> None:
    place, peer_id = Place("n1", StillClock()), NodeId("n2")
    attempts = 0

    async def fails(_peer_id: NodeId) -> Link:
        nonlocal attempts
        attempts += 1
        raise PeerUnreachable("no answer")

    async def peer(_name: str) -> object:
        return SimpleNamespace(online=online and attempts < ATTEMPTS)

    def owes(_peer_id: NodeId) -> bool:
        return True

    async def pause(_peer_id: NodeId, _seconds: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(place.links._presence, "peer", peer, raising=False)
    monkeypatch.setattr(place.links, "_dial_once", fails)
    monkeypatch.setattr(place.links, "_pause", pause)
    monkeypatch.setattr(place.side, "owes", owes)
    async with asyncio.timeout(5):
        await place.links.attempt(peer_id, 60.0)
    assert attempts >= ATTEMPTS if online else attempts < ATTEMPTS
    await place.links.close()
