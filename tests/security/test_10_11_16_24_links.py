"""Abuse cases 10, 11, 16 and 24 on a link: bombs, slow peers, a browser's page, old versions.

A real node sends its own bytes to a real daemon; what is counted is the daemon's memory, its
log, and whether another peer is served meanwhile.
"""

import asyncio
import contextlib
import re
import socket
import struct
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmesh.errors import RemoteProtocolError
from cmesh.link import tailnet
from cmesh.link.tailnet import CONNECTIONS_PER_PEER, PORT
from cmesh.model import Identity, TaskState
from cmesh.node.node import Node
from cmesh.node.testnet import Testnet
from cmesh.protocol.codec import decode, encode
from cmesh.protocol.link_messages import Challenge, Failure, Hello
from cmesh.protocol.messages import FRAME_BYTES, MINOR, SUBPROTOCOL
from tests.fakes.link_peer import LinkPeer
from tests.security.test_identity import knocking, upgrade
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import Machine, here, worker_user
from tests.system.daemon.test_bad_peers import options, resident, standing
from tests.unit.policy.support import who
from tests.unit.protocol.builders import CALLER, CALLER_KEY, acceptor, dialler, local

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MEBI = 1024 * 1024
BOMB_BYTES = 256 * MEBI
GROWTH_BYTES = 20 * MEBI
HEAD_BYTES = 8 * 1024
LIMIT_S = 20.0
DIAL_LIMIT_S = 10.0
CONTINUATION, TEXT, BINARY, CLOSE, PONG = 0, 1, 2, 8, 10  # RFC 6455, section 5.2
FINAL, COMPRESSED = 0x80, 0x40
PROTOCOL_ERROR, TOO_BIG = 1002, 1009  # RFC 6455, section 7.4.1


@dataclass
class Worker:
    """A worker's daemon, a peer it serves, and a node of the same owner that nobody trusts."""

    builder: Machine
    laptop: Machine
    node: Node
    address: str

    async def serves(self) -> bool:
        """Say whether the good peer's next task runs."""
        place = self.builder.base / "app"
        view = await self.laptop.delegate("builder", "command:true", place, new=True, wait_s=20)
        return view.state is TaskState.SUCCEEDED


@pytest.fixture(scope="module")
async def worker(
    ground: Path, testnet: Testnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Worker]:
    place = ground / "builder" / "app"
    text = command("true", "/bin/true") + inbound(place, ["command:true"])
    laptop = Machine("laptop", ground, testnet, here())
    builder = Machine("builder", ground, testnet, worker_user())
    state = tmp_path_factory.mktemp("mallory") / "node"
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, text)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await asyncio.gather(builder.up(), laptop.up())
        await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        node = await stack.enter_async_context(Node(await options(testnet, state, "mallory")))
        await node.up()
        made = Worker(builder, laptop, node, (await builder.status()).addresses[0])
        assert await made.serves()
        yield made
        assert await made.serves()
        assert "Traceback" not in builder.log_text()


class Raw:
    """A connection that sends the bytes it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self._loop.sock_sendall(self.sock, data)

    async def head(self) -> str:
        """Return the head of the answer to an upgrade; empty when the other side closed."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = await self._some(1)
            if not more:
                break
            data += more
        return data.decode("ascii")

    async def closed(self) -> int:
        """Read frames until one closes; return its code, or 0 for an end without one."""
        while start := await self._exactly(2):
            size = start[1] & 0x7F
            if size >= 126:
                form = ">H" if size == 126 else ">Q"
                (size,) = struct.unpack(form, await self._exactly(struct.calcsize(form)))
            payload = await self._exactly(size)
            if start[0] & 0xF == CLOSE:
                return int.from_bytes(payload[:2], "big")
        return 0

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._some(size - len(data))
            if not more:
                return b""
            data += more
        return data

    async def _some(self, size: int) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionError):
                return await self._loop.sock_recv(self.sock, size)
        return b""


@asynccontextmanager
async def connected(worker: Worker, opening: bytes) -> AsyncGenerator[Raw]:
    """Connect to the worker from the stranger's node and send the beginning."""
    sock = await worker.node.dial(worker.address, PORT, timeout_s=DIAL_LIMIT_S)
    with sock:
        raw = Raw(sock)
        await raw.send(opening)
        yield raw


def frame(payload: bytes, first: int, announced: int | None = None) -> bytes:
    """Return a client's frame: its first byte given, masked with nothing (RFC 6455, 5.2)."""
    size = len(payload) if announced is None else announced
    return struct.pack(">BBQ", first, 0x80 | 127, size) + bytes(4) + payload


def bomb() -> bytes:
    """Return 256 MiB of zeros as permessage-deflate has them (RFC 7692, 7.2.1)."""
    press = zlib.compressobj(9, wbits=-15)
    parts = [press.compress(bytes(MEBI)) for _ in range(BOMB_BYTES // MEBI)]
    return (b"".join(parts) + press.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


async def test_10_a_compressed_bomb_is_refused_and_not_inflated(worker: Worker) -> None:
    before = resident(worker.builder)
    data = bomb()
    assert len(data) < FRAME_BYTES, "it would be refused for its size, not for being compressed"
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=15"}
    async with connected(worker, upgrade(offer)) as raw:
        answer = await raw.head()
        assert "101" in answer
        assert "extensions" not in answer.lower()
        await raw.send(frame(data, FINAL | COMPRESSED | TEXT))
        assert await raw.closed() == PROTOCOL_ERROR
    assert resident(worker.builder) - before < GROWTH_BYTES


async def test_10_a_frame_that_is_too_large_is_refused_by_what_it_announces(
    worker: Worker,
) -> None:
    before = resident(worker.builder)
    for announced in (FRAME_BYTES + 1, BOMB_BYTES, 2**62):
        async with connected(worker, upgrade({})) as raw:
            assert "101" in await raw.head()
            await raw.send(frame(b"", FINAL | TEXT, announced))
            assert await raw.closed() == TOO_BIG, announced
    assert resident(worker.builder) - before < GROWTH_BYTES


async def test_10_pieces_of_one_message_are_added_up(worker: Worker) -> None:
    piece = bytes(FRAME_BYTES // 4)
    async with connected(worker, upgrade({})) as raw:
        assert "101" in await raw.head()
        for first in (BINARY, CONTINUATION, CONTINUATION, CONTINUATION):
            await raw.send(frame(piece, first))  # all that one message may have
        await raw.send(frame(b"x", CONTINUATION))
        assert await raw.closed() == TOO_BIG


async def test_10_a_head_without_end_is_refused(worker: Worker) -> None:
    opening = upgrade({}).removesuffix(b"\r\n")
    async with connected(worker, opening) as raw:
        with contextlib.suppress(ConnectionError):
            for number in range(4 * MEBI // HEAD_BYTES):
                await raw.send(b"X-%d: " % number + b"a" * HEAD_BYTES + b"\r\n")
        assert "101" not in await raw.head()


async def test_11_one_peer_holds_only_so_many_connections_and_the_others_are_served(
    worker: Worker,
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_PER_PEER):
            raw = await stack.enter_async_context(connected(worker, upgrade({})))
            assert "101" in await raw.head()  # accepted, and silent from now on
        for _ in range(2):
            # Closed unread: one that is read is answered.
            async with connected(worker, upgrade({})) as raw:
                assert await raw.head() == ""
        assert await worker.serves()
    assert re.search(r"link_refused.*code=busy", worker.builder.log_text())


@pytest.mark.parametrize("said", [b"", upgrade({})[:40]])
async def test_11_who_does_not_finish_its_opening_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(tailnet, "UPGRADE_LIMIT_S", 0.05)
    handled: asyncio.Queue[Identity] = asyncio.Queue()

    async def admit(_remote: str) -> Identity:
        return who()

    async with knocking(admit, handled) as sock:
        await Raw(sock).send(said)
        assert await Raw(sock).head() == ""
    assert handled.empty()


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:7333", "null"])
async def test_16_a_page_in_a_browser_of_the_tailnet_opens_no_link(
    worker: Worker, origin: str
) -> None:
    async with connected(worker, upgrade({"Origin": origin})) as raw:
        assert " 403 " in (await raw.head()).partition("\r\n")[0]


async def test_16_a_request_that_is_no_websocket_learns_nothing(worker: Worker) -> None:
    for line in (b"GET /status HTTP/1.1", b"POST /mcp HTTP/1.1", b"OPTIONS * HTTP/1.1"):
        rebound = line + b"\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"
        async with connected(worker, rebound) as raw:
            answer = await raw.head()
            assert not answer or re.match(r"HTTP/1\.1 4\d\d ", answer)
            assert "cmesh" not in answer.lower()


async def test_24_a_peer_of_another_version_is_refused_by_name(worker: Worker) -> None:
    peer = LinkPeer(worker.node, (await worker.node.status()).node_id)
    for minimum in (MINOR + 7, MINOR + 1):
        wire = await peer.connect(worker.address)
        assert isinstance(decode(str(await wire.receive(LIMIT_S))), Challenge)
        hello = Hello(
            minor=MINOR + 7,
            minor_minimum=minimum,
            software="old/1",
            node=peer.node_id,
            incarnation=peer.incarnation,
            key=peer.key.public,
            nonce="n" * 22,
            signature="A" * 86,
        )
        await wire.send(encode(hello))
        refused = decode(str(await wire.receive(LIMIT_S)))
        assert isinstance(refused, Failure)
        assert refused.code == "version_mismatch"
        await wire.close()
    assert await standing(worker.builder, peer) == "unknown"


async def test_24_another_subprotocol_is_no_way_round(worker: Worker) -> None:
    for offered in ("cmesh.v0", "cmesh", ""):
        opening = upgrade({}).replace(SUBPROTOCOL.encode(), offered.encode())
        async with connected(worker, opening) as raw:
            answer = await raw.head()
            assert "101" not in answer or await raw.closed() == 0


def test_24_versions_that_were_changed_on_the_way_prove_no_key() -> None:
    """Who stands between the two cannot talk them down to a version with a known fault."""
    a = dialler(me=local(CALLER, CALLER_KEY, minor=3))
    b = acceptor()
    challenge = decode(b.initial()[0])
    assert isinstance(challenge, Challenge)
    lowered = challenge.model_copy(update={"minor": MINOR + 1})
    a.receive_text(encode(lowered))
    [hello] = a.outgoing()
    with pytest.raises(RemoteProtocolError, match="could not prove its cmesh key"):
        b.receive_text(hello)
