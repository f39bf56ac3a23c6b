"""The link's own cost: its `ping` and `pong` beside a bare websocket over the same two nodes.

Both ends use the websockets library without compression; the link adds the session's state
machine, JSON messages and their checks.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from benchmarks.memory import peer_process
from benchmarks.stage import USER, Stage
from benchmarks.table import Row, timing
from cmesh.keys import SigningKey, verify
from cmesh.link.link import Link
from cmesh.link.tailnet import LinkServer, Wire, dial
from cmesh.model import Identity, NodeId
from cmesh.node.node import Node, NodeOptions
from cmesh.protocol.codec import Chunk
from cmesh.protocol.handshake import Local
from cmesh.protocol.link_messages import May, Ping
from cmesh.protocol.messages import SUBPROTOCOL, Message
from cmesh.protocol.session import Session
from cmesh.protocol.session_events import Introduced

__all__ = ["measure", "serve"]

GOAL = 1.5
LINK_PORT, BARE_PORT = 7333, 7400
DIAL_LIMIT_S = 10.0
ANSWER_LIMIT_S = 10.0
WARM_UP = 20
_MESSAGE = Ping(nonce="0123456789").model_dump_json()


async def measure(stage: Stage, count: int) -> list[Row]:
    """Send one message at a time over either connection, by turns."""
    key = await stage.testnet.auth_key(USER)
    own = await stage.testnet.auth_key(USER)
    with peer_process(stage, "echo", "echo", key) as (_, peer):
        options = NodeOptions(
            state_dir=stage.base / "dialler",
            hostname="dialler",
            control_url=stage.testnet.control_url,
            auth_key=own,
            allow_testnet=True,
        )
        async with Node(options) as node:
            status = await node.up()
            return await _compare(node, status.node_id, peer, count)


async def serve(node: Node, node_id: NodeId) -> None:
    """Answer on both ports until the process ends."""

    async def bare(wire: Wire, _identity: Identity) -> None:
        async for frame in wire.frames():
            await wire.send(frame)

    async def link(wire: Wire, identity: Identity) -> None:
        answering = Link(wire, _session("acceptor", node_id, identity.node_id), identity)
        await answering.open(_trust)
        await answering.run(_Answers())

    for port, handle in ((LINK_PORT, link), (BARE_PORT, bare)):
        await LinkServer(await node.listen(port), node.whois, handle).start()


async def _compare(node: Node, node_id: NodeId, peer: dict[str, str], count: int) -> list[Row]:
    address = peer["address"]
    identity = await node.whois(address)
    wire = await dial(node, address, port=LINK_PORT, limit_s=DIAL_LIMIT_S)
    link = Link(wire, _session("dialler", node_id, NodeId(peer["node_id"])), identity)
    await link.open(_trust)
    answers = _Answers()
    running = asyncio.create_task(link.run(answers))
    sock = await node.dial(address, BARE_PORT)
    through_link: list[float] = []
    through_bare: list[float] = []
    async with connect(
        f"ws://{address}/",
        sock=sock,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
    ) as websocket:
        for _ in range(WARM_UP + count):
            begun = time.perf_counter()
            await websocket.send(_MESSAGE)
            await websocket.recv()
            between = time.perf_counter()
            link.post(Ping(nonce="0123456789"))
            await answers.next()
            through_bare.append(between - begun)
            through_link.append(time.perf_counter() - between)
    await link.close()
    await asyncio.gather(running, return_exceptions=True)
    return _rows(through_bare[WARM_UP:], through_link[WARM_UP:])


def _rows(bare: Sequence[float], link: Sequence[float]) -> list[Row]:
    rows = [timing("echo, bare websocket", bare), timing("echo, link (`ping`, `pong`)", link)]
    ratio = {key: rows[1].figures[key] / rows[0].figures[key] for key in ("min", "p50", "p95")}
    row = Row(name="link / bare websocket", unit="x", figures=ratio, goal=f"p50 <= {GOAL:g} x")
    return [*rows, replace(row, met=ratio["p50"] <= GOAL)]


class _Answers:
    """Hands on each `pong`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def on_message(self, link: Link, message: Message) -> None:
        self._queue.put_nowait(message)

    def on_chunk(self, link: Link, chunk: Chunk) -> None:
        raise NotImplementedError

    async def next(self) -> Message:
        return await asyncio.wait_for(self._queue.get(), ANSWER_LIMIT_S)


async def _trust(_identity: Identity, _introduced: Introduced) -> tuple[May, Sequence[str]]:
    return May(), ()


def _session(side: str, own: NodeId, peer: NodeId) -> Session:
    key = SigningKey(bytes(32) if side == "dialler" else bytes([1]) * 32)
    local = Local(node_id=own, incarnation="bench", software="bench/1", key=key.public)
    return Session(
        "dialler" if side == "dialler" else "acceptor",
        local,
        peer,
        nonce=f"{side}-nonce-of-a-benchmark-1",
        sign=key.sign,
        verify=verify,
    )
