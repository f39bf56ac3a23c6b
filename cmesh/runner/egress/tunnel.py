"""One connection of a task: what is asked, whether it may be, and the bytes both ways.

A refusal is told to the task in a sentence and recorded for the owner in full. Before a byte
of the task goes out, the yes is recorded; when it cannot be, nothing goes out.
"""

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from cmesh.clock import Clock
from cmesh.errors import CmeshError
from cmesh.runner.egress.addresses import Address
from cmesh.runner.egress.hello import UNRECOGNIZED_NAME, Hello, HelloError
from cmesh.runner.egress.network import MCP_PATH, TLS_PORT, Network
from cmesh.runner.egress.outside import BUFFER_BYTES, Inside, Outside, Streams
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
from cmesh.text import one_line

__all__ = ["CONNECTION", "CONNECTION_ENDED", "Limits", "Record", "Refused", "Tunnel"]

logger = logging.getLogger(__name__)

CONNECTION, CONNECTION_ENDED = "connection", "connection_ended"
"""Kinds of audit rows: what was decided, before a byte went out; how much it was, at the end."""

HEAD_LIMIT_S = 30.0
"""From a connection to the whole head of its request, and from the answer to the TLS hello.

Long, because an agent on a busy machine is slow, and who is slow on purpose holds up itself.
"""

RESOLVE_LIMIT_S = 10.0
CONNECT_LIMIT_S = 5.0
IDLE_LIMIT_S = 600.0
"""Without a byte either way; a model may think for minutes, but its servers send pings."""

LINGER_LIMIT_S = 1.0
"""How long a refused client may take to read why."""

ADDRESSES_TRIED = 4

_BAD_GATEWAY, _UNAVAILABLE = "502 Bad Gateway", "503 Service Unavailable"

Record = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""Makes one audit row of a kind durable; raises CmeshError when it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long one connection may take for what, in seconds."""

    head_s: float = HEAD_LIMIT_S
    resolve_s: float = RESOLVE_LIMIT_S
    connect_s: float = CONNECT_LIMIT_S
    idle_s: float = IDLE_LIMIT_S


class Refused(Exception):
    """Raised when a connection is not to be; says why to the task, and more to the owner.

    Attributes:
        code: a word for the audit.
        reason: for the task: lower case, nothing that it may not know.
        detail: for the owner only.
        status: of the HTTP answer.
    """

    def __init__(
        self, code: str, reason: str, *, detail: str = "", status: str = "403 Forbidden"
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.status = status


@dataclass(slots=True, kw_only=True)
class _Facts:
    """What is known of a connection, for its audit rows."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = ""
    port: int = 0
    address: str = ""
    bytes_out: int = 0
    bytes_in: int = 0
    end: str = "closed"
    told: bool = False  # the task has its HTTP answer, and from then on speaks TLS


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
        outside: Outside,
        record: Record,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.refused = False
        self._reader, self._writer = client
        self._network = network
        self._outside = outside
        self._record = record
        self._clock = clock
        self._limits = limits
        self._facts = _Facts()
        self._upstream: Streams | None = None

    async def run(self) -> None:
        """Serve the connection to its end and record it."""
        try:
            first = await self._open()
            await self._pump(first)
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
        if self._facts.end == "closed":
            self._facts.end = why
        self._writer.transport.abort()
        if self._upstream is not None:
            self._upstream[1].transport.abort()

    async def _open(self) -> bytes:
        """Decide, connect and record; return what goes out first.

        Raises:
            Refused: it may not be, or cannot.
        """
        data = await self._read_head()
        if not data.startswith(CONNECT):
            if self._outside.inside is not None and asks_for(data, MCP_PATH):
                await self._to_cmesh(self._outside.inside)
            else:
                await self._to_model()
            return data
        head, _, rest = data.partition(HEAD_END)
        request = self._parse(head + HEAD_END)
        addresses = await self._allowed(request)
        self._upstream = await self._connect(addresses, request.port)
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._writer.drain()
        self._facts.told = True
        hello = await self._read_hello(rest, request.host)
        await self._allow("host")
        return hello

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
        return self._outside.inside is None or LINE_END in data

    def _parse(self, head: bytes) -> Connect:
        try:
            request = parse_head(head)
        except RequestError as error:
            raise Refused("bad_request", str(error)) from None
        self._facts.host, self._facts.port = request.host, request.port
        return request

    async def _allowed(self, request: Connect) -> list[Address]:
        """Return where a request may go: each of the name's addresses was judged."""
        if request.token is None or not _same(request.token, self._network.token):
            code = "no_token" if request.token is None else "wrong_token"
            why = "the proxy needs this task's own credential"
            raise Refused(code, why, status="407 Proxy Authentication Required")
        if request.port != TLS_PORT:
            raise Refused("port_refused", f"only port {TLS_PORT} can be reached")
        if request.host not in self._network.hosts:
            raise Refused("host_refused", f"this task may not reach `{request.host}`")
        try:
            async with asyncio.timeout(self._limits.resolve_s):
                addresses = list(await self._outside.resolve(request.host))
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            why = f"`{request.host}` has no address"
            raise Refused("no_address", why, detail=str(error), status=_BAD_GATEWAY) from None
        for address in addresses:
            # INVARIANT: one forbidden address forbids the name: who answers so means no good.
            if kind := self._outside.refusal(address):
                self._facts.address = str(address)
                why = f"`{request.host}` has an address that no task may reach"
                raise Refused("address_refused", why, detail=f"{address} is {kind}")
        return addresses[:ADDRESSES_TRIED]

    async def _connect(self, addresses: list[Address], port: int) -> Streams:
        trouble = "there is no address"
        for address in addresses:
            self._facts.address = str(address)
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    return await self._outside.connect(address, port)
            except OSError as error:
                trouble = f"{address}: {error.strerror or type(error).__name__}"
        raise Refused(
            "unreachable", "the host does not answer", detail=trouble, status=_BAD_GATEWAY
        )

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
        self._facts.port = model.port
        self._upstream = await self._connect([model.address], model.port)
        await self._allow("model")

    async def _to_cmesh(self, inside: Inside) -> None:
        """Connect to this daemon's own server, which asks for a credential with each request."""
        self._facts.port = self._network.port
        try:
            self._upstream = await inside()
        except OSError as error:  # TimeoutError is one
            why = "cmesh cannot be asked now; ask again"
            detail = str(error)
            raise Refused("unreachable", why, detail=detail, status=_UNAVAILABLE) from None
        await self._allow("mcp")

    async def _allow(self, code: str) -> None:
        """Record the yes.

        Raises:
            Refused: it cannot be recorded, so it is a no.
        """
        try:
            await self._record(CONNECTION, self._row("allowed", code))
        except CmeshError as error:
            why = "the connection cannot be recorded"
            detail = error.code
            raise Refused("not_recorded", why, detail=detail, status=_UNAVAILABLE) from None

    async def _refuse(self, refused: Refused) -> None:
        """Record a no in full, and tell the task what it may know."""
        row = self._row("refused", refused.code, refused.reason, refused.detail)
        await self._record_quietly(CONNECTION, row)
        # A client that waits for TLS is told in TLS.
        answer = UNRECOGNIZED_NAME if self._facts.told else _answer(refused)
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
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._limits.idle_s) as idle, asyncio.TaskGroup() as group:
                group.create_task(self._carry(self._reader, writer, idle, first))
                group.create_task(self._carry(reader, self._writer, idle))
        except TimeoutError:
            self.stop("idle")
        finally:
            facts = self._facts
            row: dict[str, object] = {
                "connection": facts.id,
                "bytes_out": facts.bytes_out,
                "bytes_in": facts.bytes_in,
                "seconds": round(self._clock.monotonic() - begun, 3),
                "end": facts.end,
            }
            await self._record_quietly(CONNECTION_ENDED, row)

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
            self._facts.bytes_out += size
        else:
            self._facts.bytes_in += size

    def _row(
        self, verdict: str, code: str, reason: str = "", detail: str = ""
    ) -> dict[str, object]:
        facts = self._facts
        return {
            "connection": facts.id,
            "host": facts.host,
            "address": facts.address,
            "port": facts.port,
            "verdict": verdict,
            "code": code,
            "reason": reason,
            "detail": one_line(detail),
        }

    async def _record_quietly(self, kind: str, row: Mapping[str, object]) -> None:
        """Record what cannot be undone; a store that refuses is named in the log."""
        try:
            await self._record(kind, row)
        except CmeshError as error:
            logger.warning("connection_unrecorded", extra={"data": {"code": error.code}})

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


def _answer(refused: Refused) -> bytes:
    """Return an HTTP answer (RFC 9112) that says why."""
    body = f"cmesh: {refused.reason}\n".encode()
    challenge = 'Proxy-Authenticate: Basic realm="cmesh"\r\n' if "407" in refused.status else ""
    head = (
        f"HTTP/1.1 {refused.status}\r\n{challenge}Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
