"""Where tasks of this worker that may delegate ask for tasks: one endpoint each, with a token.

An endpoint is reached through its task's own door (`networks`), or, for a task without a
namespace, at a port of the machine's loopback. Knows nothing of MCP: what serves the connections
is handed down by whoever joins the daemon with its interfaces.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from cmesh.errors import CmeshError
from cmesh.model import TaskId
from cmesh.runner.egress.network import MCP_PATH, Network, new_token
from cmesh.runner.egress.outside import Streams, open_streams

__all__ = ["MCP_REFUSED", "Door", "Endpoint", "Endpoints", "MakeEndpoint"]

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
BACKLOG = 16

WAITING_MOST = 64
"""Connections of one task that wait for it at a time; more are closed."""

READY_LIMIT_S = 20.0
"""How long a connection waits for the server behind it, which is loaded for the first one."""

MCP_REFUSED = "mcp_refused"
"""Kind of audit row: a request at a task's endpoint that did not show whose it is."""

REFUSED_RECORDED = 100
"""Refused requests of one task that get a row each; a task must not fill the audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What an endpoint lets in.

    Attributes:
        token: what each request must carry, compared in constant time.
        hosts: what `Host` may say; with an `Origin` nothing is let in.
        refused: records a request that was not let in, by a word for why.
    """

    task_id: TaskId
    path: str
    hosts: frozenset[str]
    token: str = field(repr=False)
    refused: Callable[[str], Awaitable[None]]


class Endpoint(Protocol):
    """Serves one task's requests."""

    def take(self, connection: socket.socket) -> None:
        """Serve a connection, which it owns from then on."""
        ...

    async def close(self) -> None:
        """End every connection and what is asked over it; no task is ended by it."""
        ...


MakeEndpoint = Callable[[Door], Awaitable[Endpoint]]


@dataclass(slots=True, kw_only=True)
class _Open:
    door: Door
    listener: socket.socket | None = None
    endpoint: Endpoint | None = None
    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    refused: int = 0
    serving: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])


class Endpoints:
    """The endpoints of one worker; used from one event loop."""

    def __init__(
        self, audit: Callable[[TaskId, str, Mapping[str, object]], Awaitable[None]]
    ) -> None:
        self._audit = audit
        self._open: dict[TaskId, _Open] = {}
        self._make: MakeEndpoint | None = None
        self._served = asyncio.Event()

    def serve_with(self, make: MakeEndpoint) -> None:
        """Say what serves; until then connections wait."""
        self._make = make
        self._served.set()

    def is_open(self, task_id: TaskId) -> bool:
        """Say whether a task may still ask for tasks."""
        return task_id in self._open

    def open(self, task_id: TaskId, network: Network) -> None:
        """Let a task in by its token; harmless when it is let in already.

        Raises:
            OSError: another program has the port that the task was told.
        """
        if task_id in self._open:
            return
        listener = _listen(network.port) if network.listens else None
        self._add(task_id, network, listener)

    def listen(self, task_id: TaskId) -> Network:
        """Let a task in at a new port of the machine's loopback; return what it is told.

        Raises:
            OSError: there is no port.
        """
        listener = _listen(0)
        port = listener.getsockname()[1]
        network = Network(
            hosts=frozenset(), token="", port=port, mcp_token=new_token(), listens=True
        )
        self._add(task_id, network, listener)
        return network

    async def connect(self, task_id: TaskId) -> Streams:
        """Return a new connection to a task's endpoint.

        Raises:
            OSError: it has none, or nothing serves it in time.
        """
        ours, theirs = socket.socketpair()
        try:
            (await self._endpoint(task_id)).take(theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return await open_streams(ours)

    async def shut(self, task_id: TaskId) -> None:
        """End a task's endpoint; its token opens nothing from here on. Harmless without one."""
        entry = self._open.pop(task_id, None)
        if entry is not None:
            await self._shut(entry)

    async def close(self) -> None:
        """End all endpoints; the next daemon opens those of tasks that run on."""
        entries = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(self._shut(entry) for entry in entries))

    def _add(self, task_id: TaskId, network: Network, listener: socket.socket | None) -> None:
        door = Door(
            task_id=task_id,
            path=MCP_PATH,
            hosts=frozenset(f"{name}:{network.port}" for name in ("localhost", LOOPBACK)),
            token=network.mcp_token,
            refused=partial(self._refused, task_id),
        )
        self._open[task_id] = _Open(door=door, listener=listener)
        if listener is not None:
            asyncio.get_running_loop().add_reader(listener, self._accept, task_id, listener)

    def _accept(self, task_id: TaskId, listener: socket.socket) -> None:
        try:
            connection, _address = listener.accept()
        except OSError:  # it is gone already, or there is no descriptor left
            return
        entry = self._open[task_id]
        if len(entry.serving) >= WAITING_MOST:
            connection.close()
            return
        serving = asyncio.get_running_loop().create_task(self._serve(task_id, connection))
        entry.serving.add(serving)
        serving.add_done_callback(entry.serving.discard)

    async def _serve(self, task_id: TaskId, connection: socket.socket) -> None:
        try:
            (await self._endpoint(task_id)).take(connection)
        except OSError:
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    async def _endpoint(self, task_id: TaskId) -> Endpoint:
        entry = self._open.get(task_id)
        if entry is None:
            raise ConnectionRefusedError("the task has no endpoint")
        async with asyncio.timeout(READY_LIMIT_S), entry.making:
            await self._served.wait()
            assert self._make is not None
            if entry.endpoint is None and self._open.get(task_id) is entry:
                entry.endpoint = await self._make(entry.door)
        if entry.endpoint is None or self._open.get(task_id) is not entry:
            raise ConnectionRefusedError("the task has ended")
        return entry.endpoint

    async def _shut(self, entry: _Open) -> None:
        if entry.listener is not None:
            asyncio.get_running_loop().remove_reader(entry.listener)
            entry.listener.close()
        for serving in entry.serving:
            serving.cancel()
        await asyncio.gather(*entry.serving, return_exceptions=True)
        async with entry.making:  # one that is being made is closed too
            endpoint, entry.endpoint = entry.endpoint, None
        if endpoint is not None:
            await endpoint.close()

    async def _refused(self, task_id: TaskId, code: str) -> None:
        entry = self._open.get(task_id)
        if entry is None or entry.refused >= REFUSED_RECORDED:
            return
        entry.refused += 1
        try:
            await self._audit(task_id, MCP_REFUSED, {"code": code})
        except CmeshError as error:
            logger.warning("mcp_refusal_unrecorded", extra={"data": {"code": error.code}})


def _listen(port: int) -> socket.socket:
    """Bind a port of the loopback, not inherited by any program that is started."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The shim holds the port as well, so that nobody else has it while there is no daemon.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
