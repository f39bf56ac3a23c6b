"""One connection of a task: what is asked, whether it may be, and the bytes both ways.

A refusal is told to the task in a sentence and recorded for the owner in full. Before a byte
of the task goes out, the yes is recorded; when it cannot be, nothing goes out.
"""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncGenerator, Sequence

from cmesh.runner.egress.addresses import Address
from cmesh.runner.egress.exchange import Exchanges
from cmesh.runner.egress.gateway import Gateway
from cmesh.runner.egress.hello import UNRECOGNIZED_NAME, Hello, HelloError
from cmesh.runner.egress.network import MCP_PATH, TLS_PORT, Network
from cmesh.runner.egress.outside import BUFFER_BYTES, Inside, Streams
from cmesh.runner.egress.reach import Means, addresses_of, connect
from cmesh.runner.egress.request import (
    CONNECT,
    HEAD_BYTES,
    HEAD_END,
    LINE_END,
    Connect,
    RequestError,
    asks_for,
    parse_head,
)
from cmesh.runner.egress.trail import UNAVAILABLE, Record, Refused, Trail

__all__ = ["Tunnel"]

LINGER_LIMIT_S = 1.0
"""How long a refused client may take to read why."""


class Tunnel:
    """A task's connection from its first byte to its last; `run` is its whole life.

    Attributes:
        refused: it was refused; known when `run` has returned.
    """

    def __init__(
        self,
        client: Streams,
        network: Network,
        *,
        means: Means,
        record: Record,
        inside: Inside | None = None,
        gateway: Gateway | None = None,
    ) -> None:
        self.refused = False
        self._reader, self._writer = client
        self._network = network
        self._means = means
        self._inside = inside
        self._limits = means.limits
        self._trail = Trail(record=record)
        self._told = False  # it has its HTTP answer, and from then on the task speaks TLS
        self._upstream: Streams | None = None
        self._gateway = gateway
        self._exchanges: Exchanges | None = None
        self._stopped = False

    async def run(self) -> None:
        """Serve the connection to its end and record it."""
        try:
            data = await self._read_head()
            if self._stopped:  # what was sent before can be read after
                return
            if self._gateway is not None and self._is_for_model(data):
                client = self._reader, self._writer
                self._exchanges = Exchanges(client, self._gateway, self._trail.record)
                await self._exchanges.run(data)
            else:
                await self._pump(await self._open(data))
        except Refused as refused:
            await self.turn_away(refused)
        except OSError:
            await self.turn_away(Refused("broken_off", "the task broke the connection off"))
        finally:
            self.stop("closed")

    async def turn_away(self, refused: Refused) -> None:
        """Refuse the connection without reading of it."""
        self.refused = True
        try:
            await self._refuse(refused)
        finally:
            self.stop("closed")

    def stop(self, why: str) -> None:
        """Drop both sides at once; `run` ends by it. `why` is recorded if the bytes flowed."""
        self._stopped = True
        if self._trail.end == "closed":
            self._trail.end = why
        if self._exchanges is not None:
            self._exchanges.stop(why)
        self._writer.transport.abort()
        if self._upstream is not None:
            self._upstream[1].transport.abort()

    async def _open(self, data: bytes) -> bytes:
        """Decide, connect and record; return what goes out first.

        Raises:
            Refused: it may not be, or cannot.
        """
        if self._is_for_model(data):
            await self._to_model()
            return data
        if not data.startswith(CONNECT):
            assert self._inside is not None
            await self._to_cmesh(self._inside)
            return data
        head, _, rest = data.partition(HEAD_END)
        request = self._parse(head + HEAD_END)
        addresses = await self._allowed(request)
        self._upstream = await self._connect(addresses, request.port)
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._writer.drain()
        self._told = True
        hello = await self._read_hello(rest, request.host)
        await self._trail.allowed("host")
        return hello

    def _is_for_model(self, data: bytes) -> bool:
        asks_cmesh = self._inside is not None and asks_for(data, MCP_PATH)
        return not data.startswith(CONNECT) and not asks_cmesh

    async def _read_head(self) -> bytes:
        """Return the first bytes: a whole head for a CONNECT, else as many as say where to."""
        data = b""
        async with self._in_time("request's head"):
            while not self._says_where(data):
                if len(data) > HEAD_BYTES:
                    raise Refused("bad_request", "the request's head is too long")
                more = await self._reader.read(BUFFER_BYTES)
                if not more:
                    raise Refused("bad_request", "the request has no end")
                data += more
        return data

    def _says_where(self, data: bytes) -> bool:
        if CONNECT.startswith(data[: len(CONNECT)]):
            return len(data) >= len(CONNECT) and HEAD_END in data
        return self._inside is None or LINE_END in data

    def _parse(self, head: bytes) -> Connect:
        try:
            request = parse_head(head)
        except RequestError as error:
            raise Refused("bad_request", str(error)) from None
        self._trail.host, self._trail.port = request.host, request.port
        return request

    async def _allowed(self, request: Connect) -> Sequence[Address]:
        """Return where a request may go: each of the name's addresses was judged."""
        if request.token is None or not _same(request.token, self._network.token):
            code = "no_token" if request.token is None else "wrong_token"
            why = "the proxy needs this task's own credential"
            raise Refused(code, why, status="407 Proxy Authentication Required")
        if request.port != TLS_PORT:
            raise Refused("port_refused", f"only port {TLS_PORT} can be reached")
        if request.host not in self._network.hosts:
            raise Refused("host_refused", f"this task may not reach `{request.host}`")
        return await addresses_of(request.host, self._means, self._trail)

    async def _connect(self, addresses: Sequence[Address], port: int) -> Streams:
        return await connect(addresses, port, self._means, self._trail)

    async def _read_hello(self, data: bytes, host: str) -> bytes:
        """Return the bytes of a TLS hello for `host`; they have gone nowhere yet."""
        hello, more = Hello(), data
        try:
            async with self._in_time("TLS hello"):
                while (name := hello.feed(more)) is None:
                    more = await self._reader.read(BUFFER_BYTES)
                    if not more:
                        raise Refused("tls_refused", "the connection ended before its TLS hello")
                    data += more
        except HelloError as error:
            raise Refused("tls_refused", str(error)) from None
        if name != host:
            why = "the TLS hello names another server than CONNECT did"
            raise Refused("tls_refused", why, detail=f"it names `{name}`")
        return data

    async def _to_model(self) -> None:
        model = self._network.model
        if model is None:
            raise Refused("bad_request", "the proxy takes CONNECT and nothing else")
        self._trail.port = model.port
        self._upstream = await self._connect([model.address], model.port)
        await self._trail.allowed("model")

    async def _to_cmesh(self, inside: Inside) -> None:
        """Connect to this daemon's own server, which asks for a credential with each request."""
        self._trail.port = self._network.port
        try:
            self._upstream = await inside()
        except OSError as error:  # TimeoutError is one
            why = "cmesh cannot be asked now; ask again"
            detail = str(error)
            raise Refused("unreachable", why, detail=detail, status=UNAVAILABLE) from None
        await self._trail.allowed("mcp")

    async def _refuse(self, refused: Refused) -> None:
        """Record a no in full, and tell the task what it may know."""
        await self._trail.refused(refused)
        # A client that waits for TLS is told in TLS.
        answer = UNRECOGNIZED_NAME if self._told else refused.answer()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LINGER_LIMIT_S):
                self._writer.write(answer)
                await self._writer.drain()
                self._writer.write_eof()
                # Closing on unread bytes would make the kernel throw the answer away.
                while await self._reader.read(BUFFER_BYTES):
                    pass

    async def _pump(self, first: bytes) -> None:
        """Carry bytes both ways until both sides have ended, or for too long nothing came."""
        assert self._upstream is not None
        reader, writer = self._upstream
        begun = self._means.clock.monotonic()
        try:
            if self._stopped:  # while it was connected and recorded
                self._upstream[1].transport.abort()
                return
            async with asyncio.timeout(self._limits.idle_s) as idle, asyncio.TaskGroup() as group:
                group.create_task(self._carry(self._reader, writer, idle, first))
                group.create_task(self._carry(reader, self._writer, idle))
        except TimeoutError:
            self.stop("idle")
        finally:
            await self._trail.ended(self._means.clock.monotonic() - begun)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        idle: asyncio.Timeout,
        data: bytes = b"",
    ) -> None:
        """Carry one direction to its end, then end it on the other side: a half-close stays one."""
        loop = asyncio.get_running_loop()
        outward = writer is not self._writer
        try:
            while data or (data := await reader.read(BUFFER_BYTES)):
                writer.write(data)
                await writer.drain()
                self._count(len(data), outward=outward)
                idle.reschedule(loop.time() + self._limits.idle_s)
                data = b""
            writer.write_eof()
        except OSError:
            self.stop("broken")

    def _count(self, size: int, *, outward: bool) -> None:
        if outward:
            self._trail.bytes_out += size
        else:
            self._trail.bytes_in += size

    @contextlib.asynccontextmanager
    async def _in_time(self, what: str) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._limits.head_s):
                yield
        except TimeoutError:
            raise Refused("too_slow", f"the {what} took too long") from None


def _same(token: str, expected: str) -> bool:
    """Compare in a time that tells nothing of how much was right."""
    return hmac.compare_digest(token.encode(), expected.encode())
