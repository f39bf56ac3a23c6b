"""One task's gateway to its model: connections outward, and the owner's key.

The key is read from its file when a request needs it, so that a new one counts at once. It goes
into one header of one request, and nowhere else: not into a log, a row, an answer or an error.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h11

from cmesh.errors import CmeshError, LoginExpired
from cmesh.rate import Bucket
from cmesh.runner.egress.addresses import parse_address
from cmesh.runner.egress.gate import UNAUTHORIZED, Forward, Gate, Header
from cmesh.runner.egress.outside import BUFFER_BYTES, Streams
from cmesh.runner.egress.reach import Means, addresses_of, connect
from cmesh.runner.egress.trail import Refused, Trail

__all__ = [
    "ANSWER_HEAD_BYTES",
    "REQUEST_HEAD_BYTES",
    "Bearer",
    "Credentials",
    "Gateway",
    "KeyReader",
    "LoginReader",
    "Wire",
]

REQUEST_HEAD_BYTES = ANSWER_HEAD_BYTES = 32 * 1024
"""The longest head of a request, and of an answer; also the longest line of a chunked body."""

HEAD_LINES = 256
"""The most lines of a head: each takes 20 µs to read, in one turn that nobody else has."""

_HEAD_END = re.compile(rb"\n\r?\n")

WARM_MOST = 4
WARM_LIMIT_S = 60.0
"""How many connections of a task wait for its next request, and how long."""

REQUESTS_PER_S, REQUESTS_BURST = 10.0, 100.0
"""Requests of one task; faster ones wait."""

KeyReader = Callable[[str], str]
"""Reads a key file, which blocks; raises CmeshError when it is not the owner's alone."""

Bearer = tuple[str, tuple[Header, ...]]
"""The token of an account's login, and the headers that go with it."""

LoginReader = Callable[[str], Awaitable[Bearer]]
"""Returns what a login's file gives now, renewed if need be; raises CmeshError when it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where the owner's credentials come from; `login` None = no account is logged in here."""

    key: KeyReader
    login: LoginReader | None = None

    async def read(self, gate: Gate) -> Bearer:
        """Return what is added to a request of a gate.

        Raises:
            CmeshError: there is nothing to add.
        """
        if not gate.account:
            return await asyncio.to_thread(self.key, gate.key_file), ()
        if self.login is None:
            raise LoginExpired("no login of an account can be used here")
        return await self.login(gate.key_file)


class Wire:
    """One side of an exchange: HTTP/1.1 over a connection."""

    def __init__(self, streams: Streams, role: type[h11.CLIENT | h11.SERVER], head: int) -> None:
        self.reader, self.writer = streams
        self.http = h11.Connection(role, max_incomplete_event_size=head)

    async def next(self) -> h11.Event:
        """Return the next event, reading as much as it needs.

        Raises:
            h11.RemoteProtocolError: the other side speaks no HTTP, or broke it off.
            OSError: the connection is gone.
        """
        # INVARIANT: everybody else has a turn between two events. One read can hold thousands:
        # chunks of a byte, or heads of answers that are none yet.
        await asyncio.sleep(0)
        while (event := self._event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(BUFFER_BYTES))
        assert event is not h11.PAUSED  # nobody asks for more before a message is answered
        assert not isinstance(event, type)
        return event

    def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.http.their_state in {h11.IDLE, h11.SEND_RESPONSE}:
            data, _ended = self.http.trailing_data
            end = _HEAD_END.search(data)
            if data.count(b"\n", 0, end.start() if end else len(data)) > HEAD_LINES:
                why = "the head has too many lines"
                raise h11.RemoteProtocolError(why, error_status_hint=431)
        return self.http.next_event()

    async def send(self, event: h11.Event) -> None:
        """Send an event; returns when the kernel has it.

        Raises:
            OSError: the connection is gone.
        """
        if data := self.http.send(event):
            self.writer.write(data)
            await self.writer.drain()

    def abort(self) -> None:
        """Drop the connection."""
        self.writer.transport.abort()


@dataclass(slots=True, kw_only=True)
class _Warm:
    """A connection that waits for the next request."""

    wire: Wire
    address: str
    watch: asyncio.Task[None] = field(repr=False)


class Gateway:
    """What the exchanges of one task share; used from one event loop.

    Attributes:
        gate: the model, and what may be asked of it.
        port: that the task was told.
    """

    def __init__(
        self,
        gate: Gate,
        port: int,
        means: Means,
        credentials: Credentials,
    ) -> None:
        self.gate = gate
        self.port = port
        self.limits = means.limits
        self.clock = means.clock
        self._means = means
        self._credentials = credentials
        self._rate = Bucket(per_s=REQUESTS_PER_S, burst=REQUESTS_BURST, now=self.clock.monotonic())
        self._warm: list[_Warm] = []
        self._closed = False

    async def turn(self) -> None:
        """Wait until this task may ask again."""
        if (wait_s := self._rate.spend(1, self.clock.monotonic())) > 0:
            await asyncio.sleep(wait_s)

    async def head(self, forward: Forward) -> h11.Request:
        """Return the head of a request with the owner's key in it.

        Raises:
            Refused: the key cannot be read, or is none.
        """
        why = "this worker's key cannot be read now"
        try:
            key, more = await self._credentials.read(self.gate)
        except LoginExpired as error:
            raise Refused("login_expired", error.message, status=UNAUTHORIZED) from None
        except CmeshError as error:
            raise Refused("no_key", why, detail=error.message) from None
        own = [(b"host", self.gate.authority), self.gate.credential(key), *more]
        named = {name for name, _value in own}
        passed = [header for header in forward.headers if header[0] not in named]
        try:
            return h11.Request(
                method=forward.method, target=forward.target, headers=[*own, *passed]
            )
        except h11.LocalProtocolError:  # its text would quote the key
            detail = "the key holds a character that no header can"
            raise Refused("no_key", why, detail=detail) from None

    async def reach(self, trail: Trail) -> Wire:
        """Return a connection to the model, a warm one if there is one.

        Raises:
            Refused: there is none to be had.
        """
        gate = self.gate
        trail.host, trail.port = gate.host, gate.port
        while self._warm:
            warm = self._warm.pop()
            if not warm.watch.done():
                warm.watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await warm.watch
                trail.address = warm.address
                return warm.wire
        address = parse_address(gate.host)
        if address is not None:
            addresses = [address]  # only the owner can name one
        else:
            addresses = await addresses_of(gate.host, self._means, trail, own=gate.own)
        name = gate.host if gate.secure else ""
        streams = await connect(addresses, gate.port, self._means, trail, tls_name=name)
        return Wire(streams, h11.CLIENT, ANSWER_HEAD_BYTES)

    def keep(self, wire: Wire, address: str) -> None:
        """Take a connection back after an exchange; drop it when it cannot be used again."""
        http = wire.http
        whole = http.our_state is h11.DONE and http.their_state is h11.DONE
        # INVARIANT: bytes beyond the answer would be taken for the answer to the next request.
        if self._closed or not whole or http.trailing_data[0] or len(self._warm) >= WARM_MOST:
            wire.abort()
            return
        http.start_next_cycle()
        watch = asyncio.get_running_loop().create_task(_watch(wire))
        self._warm.append(_Warm(wire=wire, address=address, watch=watch))

    async def close(self) -> None:
        """Drop the warm connections."""
        self._closed = True
        watches = [warm.watch for warm in self._warm]
        for warm in self._warm:
            warm.watch.cancel()
            warm.wire.abort()
        self._warm.clear()
        await asyncio.gather(*watches, return_exceptions=True)


async def _watch(wire: Wire) -> None:
    """End with a connection: a server that says something unasked, or nothing for long, is left."""
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(WARM_LIMIT_S):
            await wire.reader.read(1)
    wire.abort()
