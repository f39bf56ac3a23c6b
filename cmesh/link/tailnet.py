"""Websockets over the embedded node: accept, dial, frames in and out.

The one importer of websockets. Who a connection belongs to is asked before a
byte of it is read; what its frames mean is not known here.
"""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, cast

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection as Websocket
from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from cmesh.errors import (
    CmeshError,
    IdentityUnknown,
    LinkError,
    NotCmesh,
    PeerUnreachable,
    QueueFull,
    RemoteProtocolError,
    VersionMismatch,
)
from cmesh.model import Identity, NodeId
from cmesh.node.ffi import Refused
from cmesh.node.listener import Connection, Listener
from cmesh.node.node import Node
from cmesh.protocol.messages import FRAME_BYTES, SUBPROTOCOL
from cmesh.protocol.pair_messages import PAIR_SUBPROTOCOL

__all__ = ["GOING_AWAY", "PORT", "REFUSED", "RESTART", "LinkServer", "Wire", "dial"]

logger = logging.getLogger(__name__)

PORT = 7333
"""The tailnet TCP port every cmesh node listens on."""

GOING_AWAY, REFUSED, RESTART = 1001, 1008, 1012  # RFC 6455 section 7.4.1 and its registry

WHOIS_LIMIT_S = 5.0
"""How long an accepted connection may wait for word of whose it is; then it is closed unread."""

CONNECTIONS_PER_PEER = 8
"""What one node may hold open, links and unfinished handshakes; a further one is closed unread."""

UPGRADE_LIMIT_S = 10.0
PING_EVERY_S = 5.0
PING_LIMIT_S = 5.0
CLOSE_LIMIT_S = 2.0
REFUSED_TRIES = 3
REFUSED_PAUSE_S = 0.3  # a daemon listens a moment after its node is up
_TOO_BIG = 1009


class Wire:
    """One websocket: whole frames, in order, with backpressure."""

    def __init__(self, websocket: Websocket) -> None:
        self._websocket = websocket

    async def send(self, frame: str | bytes) -> None:
        """Send one frame; waits while the peer reads slowly.

        Raises:
            LinkError: the connection is gone.
        """
        try:
            with _tolerant():
                await self._websocket.send(frame)
                return
        except ConnectionClosed as error:
            raise _gone(error) from error
        raise LinkError("the link broke")

    async def receive(self, limit_s: float) -> str | bytes:
        """Return the next frame.

        Raises:
            LinkError: the connection is gone, or nothing came within `limit_s`.
        """
        try:
            async with asyncio.timeout(limit_s):
                return await self._websocket.recv()
        except ConnectionClosed as error:
            raise _gone(error) from error
        except TimeoutError as error:
            raise LinkError(f"the peer sent nothing for {limit_s:g} s") from error

    async def frames(self) -> AsyncIterator[str | bytes]:
        """Yield frames until the connection ends.

        Raises:
            LinkError: it did not end by a close of either side.
        """
        try:
            async for frame in self._websocket:
                yield frame
        except ConnectionClosed as error:
            raise _gone(error) from error

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, waiting at most `CLOSE_LIMIT_S` for the peer's part."""
        with _tolerant():
            await self._websocket.close(code, reason[:120])

    def abort(self) -> None:
        """Drop the connection at once."""
        with _tolerant():
            self._websocket.transport.abort()


Admit = Callable[[str], Awaitable[Identity]]
"""Says who has a remote address; raises to refuse. Called before a byte is read."""

Handle = Callable[[Wire, Identity], Awaitable[None]]
"""Runs one accepted connection to its end."""


class LinkServer:
    """Accepts links on a listener of the node, and connections of nodes that pair with it."""

    def __init__(
        self, listener: Listener, admit: Admit, handle: Handle, pair: Handle | None = None
    ) -> None:
        """Make it; `handle` runs links, `pair` connections that are about a pairing."""
        self._admit = admit
        # In this order: who offers both wants to pair, and asks at the same time what is here.
        handlers = {PAIR_SUBPROTOCOL: pair, SUBPROTOCOL: handle}
        self._handlers = {name: one for name, one in handlers.items() if one is not None}
        self._held: Counter[NodeId] = Counter()
        self._accepting = _Accepting(listener, self._accept)
        self._server = Server(self._create_server, self._run)

    async def start(self) -> None:
        """Begin to accept."""
        await self._server

    async def close(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """Stop accepting and close every connection."""
        self._server.close(code=code, reason=reason)
        await self._server.wait_closed()

    async def _create_server(self) -> asyncio.Server:
        # websockets needs an asyncio.Server's few methods, not its sockets.
        return cast("asyncio.Server", self._accepting)

    async def _accept(self, connection: Connection) -> None:
        # INVARIANT: whois comes before the first byte is parsed; a refusal closes the socket.
        try:
            async with asyncio.timeout(WHOIS_LIMIT_S):
                identity = await self._admit(connection.remote)
            if self._held[identity.node_id] >= CONNECTIONS_PER_PEER:
                raise QueueFull(f"`{identity.name}` holds {CONNECTIONS_PER_PEER} connections open")
        except (CmeshError, TimeoutError) as error:
            code = error.code if isinstance(error, CmeshError) else IdentityUnknown.code
            logger.warning(
                "link_refused", extra={"data": {"remote": connection.remote, "code": code}}
            )
            connection.sock.close()
            return
        # No origin: a browser always sends one, and no page has any business here (RFC 6455, 10.2).
        protocol = ServerProtocol(
            origins=[None],
            max_size=FRAME_BYTES,
            subprotocols=[Subprotocol(name) for name in self._handlers],
            extensions=None,
        )
        websocket = ServerConnection(
            protocol,
            self._server,
            ping_interval=PING_EVERY_S,
            ping_timeout=PING_LIMIT_S,
            close_timeout=CLOSE_LIMIT_S,
        )
        self._accepting.identities[websocket] = identity
        self._held[identity.node_id] += 1
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: websocket, connection.sock)
        except BaseException:
            if self._accepting.identities.pop(websocket, None) is not None:
                self._let_go(identity)  # `_run` has not begun, so it will not
            raise

    async def _run(self, websocket: ServerConnection) -> None:
        identity = self._accepting.identities.pop(websocket)
        try:
            async with asyncio.timeout(UPGRADE_LIMIT_S):
                await websocket.handshake()
            handle = self._handlers.get(websocket.subprotocol or "")
            if websocket.protocol.state is not OPEN or handle is None:
                websocket.transport.abort()
                return
            self._server.all_connections.add(websocket)
            websocket.start_keepalive()
            wire = Wire(websocket)
            try:
                await handle(wire, identity)
            finally:
                await wire.close()
                self._server.all_connections.discard(websocket)
        except (TimeoutError, OSError, EOFError, CmeshError, ConnectionClosed, InvalidHandshake):
            Wire(websocket).abort()
        except Exception:  # the edge of one connection: it must not end the others
            logger.exception("link_failed", extra={"data": {"peer": identity.name}})
            Wire(websocket).abort()
        finally:
            self._let_go(identity)
            self._server.handler_tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _let_go(self, identity: Identity) -> None:
        self._held[identity.node_id] -= 1
        if not self._held[identity.node_id]:
            del self._held[identity.node_id]


class _Accepting:
    """What websockets uses of an `asyncio.Server`, over a tailnet listener."""

    sockets = ()

    def __init__(self, listener: Listener, accept: Callable[[Connection], Awaitable[None]]) -> None:
        self.identities: dict[Any, Identity] = {}
        self._listener = listener
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._task = self._loop.create_task(self._forever())

    async def _forever(self) -> None:
        async for connection in self._listener:
            task = self._loop.create_task(self._one(connection))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _one(self, connection: Connection) -> None:
        try:
            await self._accept(connection)
        except Exception:  # the edge of one connection: it must not end the accepting
            logger.exception("accept_failed", extra={"data": {"remote": connection.remote}})
            connection.sock.close()

    def close(self) -> None:
        self._listener.close()

    def is_serving(self) -> bool:
        return self._listener.fileno() >= 0

    async def wait_closed(self) -> None:
        await asyncio.wait({self._task, *self._open})

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


async def dial(
    node: Node,
    address: str,
    *,
    name: str = "",
    port: int = PORT,
    limit_s: float,
    pairing: bool = False,
) -> Wire:
    """Open a websocket to a peer's cmesh, called `name` in errors. The caller closes it.

    With `pairing` it carries the messages of `cmesh.protocol.pair_messages`, and no link's.

    Raises:
        UnknownPeer, KeyExpired, PeerUnreachable: as `Node.dial`.
        NotCmesh: the peer answers, but not as cmesh.
        VersionMismatch: it is to pair, and its cmesh is of a version that cannot.
    """
    peer = name or address
    offered = (PAIR_SUBPROTOCOL, SUBPROTOCOL) if pairing else (SUBPROTOCOL,)
    sock = await _connect(node, address, peer, port, limit_s)
    try:
        websocket = await connect(
            f"ws://{_host(address)}/",
            sock=sock,
            subprotocols=[Subprotocol(one) for one in offered],
            compression=None,
            max_size=FRAME_BYTES,
            proxy=None,
            open_timeout=limit_s,
            ping_interval=PING_EVERY_S,
            ping_timeout=PING_LIMIT_S,
            close_timeout=CLOSE_LIMIT_S,
        )
    except (InvalidHandshake, InvalidMessage, ValueError) as error:
        raise NotCmesh(f"`{peer}` answers on tailnet port {port}, but not as cmesh") from error
    except TimeoutError as error:
        raise PeerUnreachable(f"`{peer}` accepted the connection, then said nothing") from error
    except (OSError, EOFError) as error:
        raise PeerUnreachable(
            f"`{peer}` closed the connection before cmesh could speak",
            hint="it may not allow this node: on that machine look at `cmesh peers`",
        ) from error
    if websocket.subprotocol == offered[0]:
        return Wire(websocket)
    Wire(websocket).abort()  # whatever it is, its goodbye is not worth a wait
    if websocket.subprotocol == SUBPROTOCOL:
        raise VersionMismatch(
            f"`{peer}` runs a cmesh that cannot pair",
            hint=f"upgrade cmesh there; or compare keys by hand, then `cmesh peers trust {peer}`",
        )
    raise NotCmesh(f"`{peer}` does not speak `{SUBPROTOCOL}`")


async def _connect(node: Node, address: str, peer: str, port: int, limit_s: float) -> socket.socket:
    tries = 0
    while True:
        tries += 1
        try:
            return await node.dial(address, port, timeout_s=limit_s)
        except Refused as error:
            if tries == REFUSED_TRIES:
                raise NotCmesh(f"`{peer}` is on the tailnet, but runs no cmesh") from error
        except PeerUnreachable as error:
            raise PeerUnreachable(f"`{peer}` does not answer within {limit_s:g} s") from error
        await asyncio.sleep(REFUSED_PAUSE_S)


@contextlib.contextmanager
def _tolerant() -> Generator[None]:
    """Let the end of a connection that has ended already pass.

    CPython before 3.12: a transport that was closed with bytes still to write has no loop
    once they are out, and `abort`, which websockets calls then, raises `AttributeError`.
    """
    try:
        yield
    except AttributeError as error:
        if error.name != "call_soon":
            raise


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _gone(error: ConnectionClosed) -> LinkError:
    if error.sent is not None and error.sent.code == _TOO_BIG and not error.rcvd_then_sent:
        return RemoteProtocolError(f"the peer sent a frame of more than {FRAME_BYTES} bytes")
    received = error.rcvd
    why = (
        f"the peer closed the link ({received.code} {received.reason})".rstrip() if received else ""
    )
    return LinkError(why or "the link broke")
