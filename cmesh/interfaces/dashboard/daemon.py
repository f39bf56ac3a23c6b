"""The daemon as pages see it: one connection that is made again when the daemon restarts."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from cmesh.clock import Clock
from cmesh.daemon.answers import PeersView
from cmesh.errors import (
    ConfigError,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonRestarting,
    DaemonTimeout,
    NodeError,
)
from cmesh.interfaces.client import ControlClient

__all__ = ["AWAY", "AWAY_LIMIT_S", "Daemon", "known_peers"]

AWAY = (DaemonNotRunning, DaemonRestarted, DaemonRestarting, DaemonTimeout)
"""How a call fails while no daemon is there."""

AWAY_LIMIT_S = 5.0
"""How long a page waits for a daemon that restarts."""

RETRY_S = 0.1

_T = TypeVar("_T")
Work = Callable[[ControlClient], Awaitable[_T]]


class Daemon:
    """A client of the control socket for many requests at once; close it in the end.

    Attributes:
        closed: it is closed for good, and every call fails.
    """

    def __init__(self, path: Path, clock: Clock, *, agent: str = "") -> None:
        self._path = path
        self._clock = clock
        self._agent = agent
        self.closed = False
        self._others: WeakSet[Daemon] = WeakSet()
        self._client: ControlClient | None = None
        self._connecting = asyncio.Lock()

    def another(self) -> "Daemon":
        """Return another connection, for calls that wait long; it is closed with this one."""
        other = Daemon(self._path, self._clock, agent=self._agent)
        other.closed = self.closed
        self._others.add(other)
        return other

    async def call(self, work: Work[_T], *, away_s: float = AWAY_LIMIT_S) -> _T:
        """Do `work`, which changes nothing: it is done again when the daemon restarts meanwhile.

        Raises:
            DaemonNotRunning: none came back within `away_s`.
            CmeshError: what the operation raised.
        """
        until = self._clock.monotonic() + away_s
        while True:
            client = None
            try:
                client = await self._connected()
                return await work(client)
            except AWAY:
                await self._lost(client)
                if self._clock.monotonic() >= until:
                    raise
            await asyncio.sleep(RETRY_S)

    async def act(self, work: Work[_T]) -> _T:
        """Do `work` once, whatever becomes of it.

        Raises:
            DaemonRestarted: the daemon went away meanwhile; what became of it, a look tells.
            CmeshError: what the operation raised.
        """
        client = await self._connected()
        try:
            return await work(client)
        except AWAY:
            await self._lost(client)
            raise

    async def close(self) -> None:
        """Close the connection; open calls raise `DaemonRestarted`."""
        self.closed = True
        for other in list(self._others):
            await other.close()
        async with self._connecting:
            client, self._client = self._client, None
            if client is not None:
                await client.close()

    async def _connected(self) -> ControlClient:
        async with self._connecting:
            if self.closed:
                raise DaemonRestarted("this dashboard is ending")
            if self._client is None:
                client = ControlClient(self._path, session="dashboard", agent=self._agent)
                await client.__aenter__()
                self._client = client
            return self._client

    async def _lost(self, client: ControlClient | None) -> None:
        """Give a broken connection up, unless another request has made a new one by now."""
        async with self._connecting:
            if client is not None and self._client is client:
                self._client = None
                await client.close()


async def known_peers(client: ControlClient) -> PeersView:
    """Return the peers; none while the node is not up, which the status says."""
    try:
        return await client.list_peers()
    except (ConfigError, NodeError):
        return PeersView(peers=[])
