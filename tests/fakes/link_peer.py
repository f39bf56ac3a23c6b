"""A scripted peer: a real node that speaks the link's handshake, then whatever a test wants.

It accepts or dials, proves a key of its own (or fails to), and gives the test each frame
as it came; nothing of the daemon is in it, so it can break every rule.
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from cmesh.errors import LinkError
from cmesh.keys import SigningKey, verify
from cmesh.link.tailnet import PORT, LinkServer, Wire, dial
from cmesh.model import Identity, NodeId, TaskId
from cmesh.node.listener import Connection
from cmesh.node.node import Node
from cmesh.protocol.codec import Chunk, decode, decode_chunk, encode
from cmesh.protocol.features import TAKES
from cmesh.protocol.handshake import Local, Side
from cmesh.protocol.link_messages import Grants, May, Receipt
from cmesh.protocol.messages import (
    MINOR,
    MINOR_MINIMUM,
    Accepted,
    Artifact,
    End,
    Message,
    ResultAck,
    ResultMessage,
    Submit,
    Subscribe,
)
from cmesh.protocol.outcome import Outcome
from cmesh.protocol.receipts import result_bytes
from cmesh.protocol.session import Session
from cmesh.protocol.session_events import Introduced, Opened

__all__ = ["Channel", "LinkPeer", "Script", "other_service", "result", "serve_worker"]

FRAME_LIMIT_S = 20.0
OPEN_LIMIT_S = 20.0


@dataclass(slots=True)
class Channel:
    """One open link of the fake.

    Attributes:
        identity: who the tailnet says is at the other end.
        frames: every frame received after the handshake, as it came.
    """

    wire: Wire
    identity: Identity
    opened: Opened
    frames: list[str | bytes] = field(default_factory=list[str | bytes])

    async def send(self, message: Message) -> None:
        await self.wire.send(encode(message))

    async def raw(self, frame: str | bytes) -> None:
        """Send a frame as it is."""
        await self.wire.send(frame)

    async def receive(self) -> Message | Chunk:
        """Return the next message but audit heads and grants, which may come at any time.

        Raises:
            LinkError: the link has ended.
        """
        while True:
            frame = await self.wire.receive(FRAME_LIMIT_S)
            self.frames.append(frame)
            message = decode_chunk(frame) if isinstance(frame, bytes) else decode(frame)
            if not isinstance(message, Receipt | Grants):
                return message

    async def ended(self) -> str:
        """Hear what comes until the link ends; return why it did."""
        try:
            while True:
                await self.receive()
        except LinkError as error:
            return error.message


Script = Callable[["LinkPeer", Channel], Awaitable[None]]
"""What the fake does on an open link; the link is closed when it returns."""


class LinkPeer:
    """The fake; an async context manager that accepts links with `script`.

    Attributes:
        takes: what of a task that came later it says that it takes.
        minors: newest and oldest minor version it claims to speak.
        sign: makes its handshake signature; replace it to prove nothing.
        sign_result: makes the signatures of its results.
        sent: the frames of its handshakes, for replays.
        failures: how handshakes ended that did not open a link.
        links: how many opened.
    """

    def __init__(self, node: Node, node_id: NodeId, script: Script | None = None) -> None:
        self.node = node
        self.node_id = node_id
        self.key = SigningKey(os.urandom(32))
        self.incarnation = secrets.token_hex(8)
        self.minors: tuple[int, int] = (MINOR, MINOR_MINIMUM)
        self.takes: tuple[str, ...] = TAKES
        self.sign: Callable[[bytes], str] = self.key.sign
        self.sign_result: Callable[[bytes], str] = self.key.sign
        self.sent: list[str] = []
        self.failures: list[LinkError] = []
        self.links = 0
        self.script = script or _until_end
        self._server: LinkServer | None = None

    async def __aenter__(self) -> Self:
        listener = await self.node.listen(PORT)
        self._server = LinkServer(listener, self.node.whois, self._accepted)
        await self._server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        await self._server.close()

    async def dial(self, address: str) -> Channel:
        """Open a link to a daemon; the caller closes its wire."""
        identity = await self.node.whois(address)
        return await self._open(await self.connect(address), identity, "dialler")

    async def connect(self, address: str) -> Wire:
        """Open a websocket to a daemon, without the handshake of a link."""
        return await dial(self.node, address, limit_s=OPEN_LIMIT_S)

    async def _accepted(self, wire: Wire, identity: Identity) -> None:
        try:
            channel = await self._open(wire, identity, "acceptor")
        except LinkError as error:
            self.failures.append(error)
            return
        self.links += 1
        with contextlib.suppress(LinkError):
            await self.script(self, channel)
        await wire.close()

    async def _open(self, wire: Wire, identity: Identity, side: Side) -> Channel:
        local = Local(
            node_id=self.node_id,
            incarnation=self.incarnation,
            software="fake/1",
            key=self.key.public,
            takes=self.takes,
            minor=self.minors[0],
            minor_minimum=self.minors[1],
        )
        nonce = secrets.token_urlsafe(24)
        session = Session(side, local, identity.node_id, nonce=nonce, sign=self.sign, verify=verify)
        for frame in session.initial():
            await wire.send(frame)
        async with asyncio.timeout(OPEN_LIMIT_S):
            while session.opened is None:
                frame = await wire.receive(OPEN_LIMIT_S)
                try:
                    events = session.receive_text(str(frame))
                finally:
                    for answer in session.outgoing():
                        self.sent.append(answer)
                        await wire.send(answer)
                if any(isinstance(event, Introduced) for event in events):
                    answer = session.welcome if side == "acceptor" else session.grants
                    await wire.send(answer(May(), ()))
                if session.closed:
                    raise LinkError(str(frame))
        return Channel(wire, identity, session.opened)


async def serve_worker(
    peer: LinkPeer,
    channel: Channel,
    outcome: Outcome,
    output: Callable[[Channel, Artifact], Awaitable[None]] | None = None,
) -> None:
    """Take every task as a worker would, and end each at once with `outcome`."""
    hashes: dict[str, str] = {}
    while True:
        message = await channel.receive()
        if isinstance(message, Submit):
            hashes[message.task_id] = message.payload_hash
            payload_hash = message.payload_hash
            await channel.send(Accepted(task_id=message.task_id, payload_hash=payload_hash))
        elif isinstance(message, Subscribe):
            task_id = message.task_id
            if task_id not in hashes:
                continue
            await channel.send(End(task_id=task_id, last_seq=0))
            await channel.send(result(peer, channel, task_id, hashes[task_id], outcome))
        elif isinstance(message, Artifact) and output is not None:
            await output(channel, message)
        elif isinstance(message, ResultAck):
            hashes.pop(message.task_id, None)


def result(
    peer: LinkPeer, channel: Channel, task_id: str, payload_hash: str, outcome: Outcome
) -> ResultMessage:
    """Return a result signed as a worker signs it."""
    caller = channel.identity.node_id
    signed = result_bytes(TaskId(task_id), payload_hash, peer.node_id, caller, outcome, 0)
    return ResultMessage(
        task_id=task_id, last_seq=0, outcome=outcome, signature=peer.sign_result(signed)
    )


@contextlib.asynccontextmanager
async def other_service(node: Node, answer: bytes) -> AsyncGenerator[None]:
    """Serve something else on the link's port: `answer`, or an upgrade without a subprotocol."""
    listener = await node.listen(PORT)

    async def one(connection: Connection) -> None:
        reader, writer = await asyncio.open_connection(sock=connection.sock)
        with contextlib.suppress(OSError, EOFError):
            request = await reader.readuntil(b"\r\n\r\n")
            writer.write(answer or _upgrade(request))
            await writer.drain()
            await reader.read()
        writer.close()

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as connections:
            async for connection in listener:
                connections.create_task(one(connection))

    serving = asyncio.create_task(all_of_them())
    yield
    serving.cancel()
    await asyncio.wait({serving})
    listener.close()


def _upgrade(request: bytes) -> bytes:
    [key] = re.findall(rb"(?i)sec-websocket-key: (\S+)", request)
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # RFC 6455, 1.3
    accept = base64.b64encode(digest)
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    return b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + accept, b"", b""])


async def _until_end(_peer: LinkPeer, channel: Channel) -> None:
    await channel.ended()
