"""The open connections of one server: so many, and none that waits without asking.

Any program of the machine may connect to a loopback port, and any approver to the node's. What one
may take up by that is bounded, and a connection that has proved itself is never ended for one
that has not.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Any

from typing_extensions import override
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

__all__ = ["CONNECTIONS_MOST", "KEEP_ALIVE_S", "REQUEST_LIMIT_S", "Connection", "Connections"]

CONNECTIONS_MOST = 64
NODE_MOST = 16
"""Connections of one node: none keeps others from the page by holding all."""

REQUEST_LIMIT_S = 10.0
"""Within which a new connection sends the head of its first request, and each head its body."""

UNREAD_LIMIT_S = 60.0
"""Within which what was written is read, but for the last 64 KiB of it."""

KEEP_ALIVE_S = 120.0
"""How long a connection without a request is kept after one was answered."""

_BUSY = "503 Service Unavailable", "cmesh: too many connections, try again\n"
_LATE = "408 Request Timeout", "cmesh: no request came in time\n"

_logger = logging.getLogger(__name__)


class Connection(H11Protocol):
    """One connection, ended when it shows no request in time, or does not take its answer.

    Attributes:
        proven: it has shown that it may ask, by its task's token or by whose it is.
        node_id: the node that it is of, by whois; empty = a program of this machine.
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        loop: asyncio.AbstractEventLoop,
        node_id: str = "",
    ) -> None:
        # What stands here is in the `state` of each request's scope.
        super().__init__(config, state, {"connection": self}, loop)
        self.proven = bool(node_id)
        self.node_id = node_id
        self._limit: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._body_of: object = None  # the request whose body is waited for

    @property
    def open(self) -> bool:
        """It is not on its way to be closed."""
        return not self.transport.is_closing()

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for a request, but so long."""
        super().connection_made(transport)
        self._wait(REQUEST_LIMIT_S)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._forget()
        self.resume_writing()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        """Take a piece; what is no whole head does not count as a request."""
        super().data_received(data)
        if self._answering():
            self._wait_for_body()

    @override
    def on_response_complete(self) -> None:
        """Wait for the next request, or for the body of one that came already, but so long."""
        super().on_response_complete()
        if self._answering():
            self._wait_for_body()
        else:
            self._wait(KEEP_ALIVE_S)

    @override
    def pause_writing(self) -> None:
        """Wait for the other end to read, but so long."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_LIMIT_S, self.transport.abort)

    @override
    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def end(self, answer: tuple[str, str]) -> None:
        """Close it with a word, where no answer of a request is on its way.

        One that was closed before, and has not taken all of its answer, is gone at once.
        """
        self._forget()
        if not self.open:
            self.transport.abort()
            return
        if not self._answering() or not self._current().response_started:
            self.transport.write(_response(answer))
        self.transport.close()

    def _current(self) -> Any:
        return self.cycle  # uvicorn has no request yet where it declares one

    def _answering(self) -> bool:
        cycle = self._current()
        return cycle is not None and not cycle.response_complete

    def _wait_for_body(self) -> None:
        cycle = self._current()
        if not cycle.more_body:
            self._forget()
        elif cycle is not self._body_of:  # a piece of it gives no more time
            self._body_of = cycle
            self._wait(REQUEST_LIMIT_S)

    def _wait(self, limit_s: float) -> None:
        self._forget()
        if self.open:
            self._limit = self.loop.call_later(limit_s, self.end, _LATE)

    def _forget(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class Connections:
    """The connections of one endpoint. Event loop only."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state = ServerState()
        self._open: dict[Connection, None] = {}  # the oldest first
        self._taken: dict[asyncio.Task[None], socket.socket] = {}

    def take(self, connection: socket.socket, node_id: str = "") -> None:
        """Serve a connection, which is owned here from then on, or refuse it.

        Of too many the oldest one goes that is not proven: who asks at once is served,
        however many others only sit there.
        """
        more = len(self._taken) + self._living() + 1 - CONNECTIONS_MOST
        if more > 0 and not self._make_room(more):
            with contextlib.suppress(OSError):
                connection.send(_response(_BUSY), socket.MSG_DONTWAIT)
            connection.close()
            return
        task = asyncio.create_task(self._take(connection, node_id))
        self._taken[task] = connection
        task.add_done_callback(self._taken.pop)

    def abort(self) -> set[asyncio.Task[Any]]:
        """End all of them now; return what may still run of their requests, cancelled."""
        for task, connection in self._taken.items():  # nobody has taken these yet
            task.cancel()
            connection.close()
        for protocol in self._state.connections:
            if isinstance(protocol, Connection):
                protocol.transport.abort()
        requests = set(self._state.tasks)
        for task in requests:
            task.cancel()
        return {*requests, *self._taken}

    def _living(self) -> int:
        """Count those that hold a descriptor; one that was closed does until its end has read."""
        for gone in [one for one in self._open if one not in self._state.connections]:
            del self._open[gone]
        return len(self._open)

    def _bound(self, node_id: str) -> None:
        """End the oldest connections of a node that has more than it may."""
        self._living()
        own = [one for one in self._open if one.node_id == node_id != ""]
        for one in own[: max(0, len(own) - NODE_MOST)]:
            one.end(_BUSY)

    def _make_room(self, most: int) -> bool:
        """End so many of the oldest that are not proven, or closed already; False = there is none."""
        ended = [one for one in self._open if not (one.open and one.proven)][:most]
        for one in ended:
            one.end(_BUSY)
        return bool(ended)

    async def _take(self, connection: socket.socket, node_id: str) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> Connection:
            return Connection(self._config, self._state, loop, node_id)

        try:
            _transport, made = await loop.connect_accepted_socket(protocol, connection)
            self._open[made] = None
            self._bound(node_id)
        except OSError as error:
            connection.close()
            _logger.info("client_lost", extra={"data": {"why": type(error).__name__}})


def _response(answer: tuple[str, str]) -> bytes:
    status, text = answer
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return f"{head}{text}".encode()
