"""A good peer's wait for `accepted`, alone and beside a peer that floods the same worker.

Workers, callers, links and stores are real and share one process; the network is memory.
The two cases alternate, so that what else the machine does falls on both.
"""

import asyncio
import contextlib
import itertools
import tempfile
import time
from pathlib import Path

from typing_extensions import override

from benchmarks.table import Row
from cmesh.errors import LinkError
from cmesh.link.link import Link
from cmesh.model import NodeId
from cmesh.protocol.codec import encode
from cmesh.protocol.convert import submit
from cmesh.protocol.link_messages import Ping
from cmesh.protocol.messages import Message
from tests.fakes.half import Half, StillClock, connect

__all__ = ["measure"]

GOAL = 2.0
ROUNDS = 4
BURST_FRAMES = 256
FLOOD_PAUSE_S = 0.001
FLOOD_FRAMES = 2_000
GOOD_PEERS = 3  # each stays below `submits_per_minute`, which holds for the good as well


class _GoingClock(StillClock):
    """The rates are about real time."""

    @override
    def monotonic(self) -> float:
        return time.monotonic()


class _Hub(Half):
    """A worker with a link to each of several peers."""

    def __init__(self, name: str, base: Path, clock: StillClock) -> None:
        self.links: dict[NodeId, Link] = {}
        super().__init__(name, base, clock)

    @override
    def link_to(self, peer_id: NodeId) -> Link | None:
        return self.links.get(peer_id)

    @override
    async def carry(self, link: Link) -> None:
        peer_id = link.identity.node_id
        self.links[peer_id] = link
        try:
            await super().carry(link)
        finally:
            if self.links.get(peer_id) is link:
                del self.links[peer_id]


class _Flooder(Half):
    """A peer that listens to nothing."""

    @override
    def on_message(self, link: Link, message: Message) -> None:
        pass


async def measure(directory: Path | None, count: int) -> list[Row]:
    """Return both waits and their ratio; `count` tasks a case."""
    with tempfile.TemporaryDirectory(prefix="cmesh-flood-", dir=directory) as name:
        return await _measure(Path(name), count)


async def _measure(base: Path, count: int) -> list[Row]:
    clock = _GoingClock()
    hub = _Hub("hub", base, clock)
    good = [Half(f"good{number}", base, clock) for number in range(GOOD_PEERS)]
    bad = _Flooder("bad", base, clock)
    rule = hub.rule(concurrent=1)
    hub.configure(rule.replace("[worker]\n", "[worker]\nqueue = 100000\nqueue_per_peer = 1000\n"))
    halves = (bad, *good, hub)  # the hub's links end with their other ends
    for half in halves:
        await half.start()
    for half in good:
        await connect(half, hub)
    alone: list[float] = []
    beside: list[float] = []
    sent = 0
    texts = _frames(bad, hub)
    await _waits(good, hub, count // ROUNDS)  # warm up
    for _ in range(ROUNDS):
        alone += await _waits(good, hub, count // ROUNDS)
        flood = asyncio.create_task(_flood(bad, hub, texts))
        beside += await _waits(good, hub, count // ROUNDS)
        flood.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flood
        sent += len(bad.wire.sent) if bad.wire else 0
        if bad.wire is not None:
            bad.wire.abort()
    for half in halves:
        await half.stop()
    ratio = _p99(beside) / _p99(alone)
    note = f"{sent} frames were sent by the flooding peer"
    return [
        _row("submit to accepted, alone", alone),
        _row("submit to accepted, beside a flooding peer", beside, note),
        Row(
            name="p99 beside a flooding peer / alone",
            unit="x",
            figures={"value": ratio},
            goal=f"< {GOAL:g} x",
            met=ratio < GOAL,
        ),
    ]


async def _waits(askers: list[Half], worker: Half, count: int) -> list[float]:
    took: list[float] = []
    for number, asker in zip(range(count), itertools.cycle(askers), strict=False):
        begun = time.perf_counter()
        task_id = await asker.delegate(worker, prompt=f"{begun} {number}")
        await asker.until(task_id, "accepted", "intent", "running", "succeeded")
        took.append((time.perf_counter() - begun) * 1_000)
    return took


async def _flood(bad: Half, hub: Half, texts: list[str]) -> None:
    """Send frames as fast as they are read, and come back when dropped."""
    while True:
        await connect(bad, hub)
        ours, theirs = bad.wire, hub.wire
        assert ours is not None
        assert theirs is not None
        with contextlib.suppress(LinkError):
            for text in itertools.cycle(texts):
                while theirs.unread >= BURST_FRAMES:
                    await asyncio.sleep(FLOOD_PAUSE_S)
                await ours.send(text)


def _frames(bad: Half, hub: Half) -> list[str]:
    """Return submits that no rule allows, and pings between them."""
    messages: list[Message] = [
        message
        for _ in range(FLOOD_FRAMES // 2)
        for message in (submit(bad.record(hub, directory="/nowhere").spec), Ping(nonce="n"))
    ]
    return [encode(message) for message in messages]


def _row(name: str, took: list[float], note: str = "") -> Row:
    values = sorted(took)
    figures = {
        "min": values[0],
        "p50": values[len(values) // 2],
        "p95": values[int(len(values) * 0.95)],
        "n": float(len(values)),
    }
    said = f"p99 {_p99(took):.2f} ms" + (f"; {note}" if note else "")
    return Row(name=name, figures=figures, note=said)


def _p99(took: list[float]) -> float:
    values = sorted(took)
    return values[min(len(values) - 1, int(len(values) * 0.99))]
