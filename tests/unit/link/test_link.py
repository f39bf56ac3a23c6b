"""A link over a wire in memory: order, limits, and the ends that are not clean."""

import asyncio
from typing import cast

import pytest

from cmesh.errors import CmeshError, LinkError, PeerUntrusted, RemoteProtocolError
from cmesh.link import link as subject
from cmesh.link.link import Link
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import Failure, May, Ping, Restarting
from cmesh.protocol.messages import Message, StillWanted
from cmesh.protocol.session_events import Introduced
from tests.fakes.wire import MemoryWire, wire_pair
from tests.unit.protocol.builders import CALLER, TASK, WORKER, acceptor, dialler

pytestmark = pytest.mark.anyio


class Heard:
    """Takes what comes; lets a test keep the work of it unfinished."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.changed = asyncio.Event()
        self.unfinished: list[asyncio.Future[None]] = []
        self.holding = False

    def on_message(self, link: Link, message: Message) -> None:
        self.messages.append(message)
        self.changed.set()
        if self.holding:
            work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.unfinished.append(work)
            link.hold(work)

    def on_chunk(self, link: Link, chunk: Chunk) -> None:
        raise AssertionError((link, chunk))

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(5):
            while len(self.messages) < wanted:
                self.changed.clear()
                await self.changed.wait()


async def agree(_who: Identity, _introduced: Introduced) -> tuple[May, list[TaskId]]:
    return May(), []


async def refuse(_who: Identity, _introduced: Introduced) -> tuple[May, list[TaskId]]:
    raise PeerUntrusted("a first contact")


def links() -> tuple[Link, Link, MemoryWire, MemoryWire]:
    a, b = wire_pair()
    ours = Link(cast("Wire", a), dialler(), Identity(node_id=WORKER, name="w.test"))
    theirs = Link(cast("Wire", b), acceptor(), Identity(node_id=CALLER, name="c.test"))
    return ours, theirs, a, b


async def opened() -> tuple[Link, Link, MemoryWire, MemoryWire]:
    ours, theirs, a, b = links()
    await asyncio.gather(ours.open(agree), theirs.open(agree))
    return ours, theirs, a, b


async def test_messages_arrive_in_the_order_they_were_given() -> None:
    ours, theirs, _, _ = await opened()
    heard = Heard()
    ids = [f"0193a5c0-0000-7000-8000-{n:012d}" for n in range(50)]
    runs = [asyncio.create_task(ours.run(Heard())), asyncio.create_task(theirs.run(heard))]
    for number, task_id in enumerate(ids):
        message = StillWanted(task_id=task_id)
        if number % 2:
            ours.post(message)
        else:
            await ours.send(message)
    await heard.count(50)
    assert [m.task_id for m in heard.messages if isinstance(m, StillWanted)] == ids
    await ours.close()
    await asyncio.gather(*runs)


async def test_a_refusal_is_told_with_its_code() -> None:
    ours, theirs, _, b = links()
    outcomes = await asyncio.gather(ours.open(agree), theirs.open(refuse), return_exceptions=True)
    assert [type(one) for one in outcomes] == [PeerUntrusted, PeerUntrusted]
    assert b.closed == (1008, "peer_untrusted")


async def test_a_peer_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "HANDSHAKE_LIMIT_S", 0.05)
    ours, _, _, _ = links()
    with pytest.raises(LinkError, match="in time"):
        await ours.open(agree)


async def test_a_connection_lost_during_the_handshake_is_a_link_error() -> None:
    ours, _, a, _ = links()
    opening = asyncio.create_task(ours.open(agree))
    await asyncio.sleep(0)
    a.lose()
    with pytest.raises(LinkError):
        await opening


async def test_who_waits_for_a_sent_frame_is_woken_when_the_link_ends() -> None:
    ours, theirs, a, _ = await opened()
    run = asyncio.create_task(ours.run(Heard()))
    a.stuck = asyncio.Event()
    sends = [asyncio.create_task(ours.send(Ping())) for _ in range(3)]
    await asyncio.sleep(0)
    theirs.abort()
    async with asyncio.timeout(5):
        done = await asyncio.gather(*sends, run, return_exceptions=True)
    assert [type(one) for one in done] == [LinkError] * 4


async def test_a_peer_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "QUEUE_LIMIT_FRAMES", 10)
    ours, _, a, _ = await opened()
    run = asyncio.create_task(ours.run(Heard()))
    a.stuck = asyncio.Event()
    await asyncio.sleep(0)
    for _ in range(20):
        ours.post(Restarting())
    with pytest.raises(LinkError, match="too slowly"):
        await run
    assert ours._queue.qsize() == 0  # pyright: ignore[reportPrivateUsage] -- what memory holds


async def test_nothing_more_is_read_while_too_much_is_unfinished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "WORK_LIMIT", 3)
    ours, theirs, _, b = await opened()
    heard = Heard()
    heard.holding = True
    runs = [asyncio.create_task(ours.run(Heard())), asyncio.create_task(theirs.run(heard))]
    for _ in range(10):
        await ours.send(Restarting())
    await heard.count(3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(heard.messages) == 3
    heard.holding = False
    for work in heard.unfinished:
        work.set_result(None)
    await heard.count(10)
    await theirs.close()
    await asyncio.gather(*runs)
    assert b.closed is not None


async def test_a_broken_rule_ends_the_link_and_is_told() -> None:
    ours, theirs, a, b = await opened()
    runs = [asyncio.create_task(ours.run(Heard())), asyncio.create_task(theirs.run(Heard()))]
    await a.send('{"type": "no such thing"}')
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert isinstance(outcomes[1], RemoteProtocolError)
    assert b.closed == (1008, "remote_protocol_error")
    last = b.sent[-1]
    assert isinstance(last, str)
    assert "no such thing" in last


async def test_what_the_daemon_refuses_is_told_and_raised() -> None:
    ours, theirs, _, _ = await opened()
    heard = Heard()
    runs = [asyncio.create_task(ours.run(heard)), asyncio.create_task(theirs.run(Heard()))]
    await theirs.refuse(RemoteProtocolError("a hole in the events"))
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert isinstance(outcomes[1], RemoteProtocolError)
    assert [m.reason for m in heard.messages if isinstance(m, Failure)] == ["a hole in the events"]
    with pytest.raises(CmeshError):
        await theirs.send(StillWanted(task_id=TASK))


async def test_a_peer_that_sends_too_fast_is_read_at_the_links_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "FRAMES_BURST", 2)
    monkeypatch.setattr(subject, "FRAMES_PER_S", 0.001)
    ours, theirs, _, b = await opened()
    heard = Heard()
    runs = [asyncio.create_task(ours.run(Heard())), asyncio.create_task(theirs.run(heard))]
    for _ in range(9):
        await ours.send(StillWanted(task_id="0193a5c0-0000-7000-8000-000000000000"))
    await heard.count(3)  # two it may, and the one that is paid for by the wait
    assert b.unread == 6
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)


async def test_what_one_link_has_spent_of_a_pace_the_next_one_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "FRAMES_BURST", 2)
    monkeypatch.setattr(subject, "FRAMES_PER_S", 0.001)
    pace, unread = subject.new_pace(), list[int]()
    for count in (3, 1):
        ours, theirs, _, b = await opened()
        heard = Heard()
        runs = [
            asyncio.create_task(ours.run(Heard())),
            asyncio.create_task(theirs.run(heard, pace)),
        ]
        for _ in range(9):
            await ours.send(StillWanted(task_id=TASK))
        await heard.count(count)
        unread.append(b.unread)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
    assert unread == [6, 8]


async def test_a_large_frame_counts_as_several() -> None:
    weigh = subject._weight  # pyright: ignore[reportPrivateUsage]
    assert weigh("x") == weigh(b"x") == 1
    assert weigh("x" * 2**20) == 129
    assert weigh(b"x" * 2**18) == 5


async def test_what_was_posted_goes_out_before_a_goodbye() -> None:
    ours, theirs, _, _ = await opened()
    heard = Heard()
    runs = [asyncio.create_task(ours.run(Heard())), asyncio.create_task(theirs.run(heard))]
    for _ in range(20):
        ours.post(StillWanted(task_id="0193a5c0-0000-7000-8000-000000000000"))
    await ours.flushed()
    await ours.close()
    await asyncio.gather(*runs)
    assert len(heard.messages) == 20
