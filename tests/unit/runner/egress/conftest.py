"""A proxy with one task's door, and an upstream that echoes, all on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.model import TaskId
from cmesh.runner.egress.network import Network
from cmesh.runner.egress.outside import Outside, Streams
from cmesh.runner.egress.proxy import Proxy
from cmesh.runner.egress.reach import Limits
from tests.fakes.egress import Audit, Upstream, hand_in, loopback_outside, network, upstream

TASK = TaskId("00000000-0000-7000-8000-000000000001")


@dataclass
class World:
    """A served task."""

    proxy: Proxy
    door: Path
    audit: Audit
    server: Upstream

    async def connect(self) -> Streams:
        return await hand_in(self.door)

    async def ask(self, data: bytes) -> bytes:
        """Send `data` on a new connection and return all that comes back."""
        reader, writer = await self.connect()
        writer.write(data)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


Serve = Callable[..., Awaitable[World]]


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream() as found:
        yield found


@pytest.fixture
async def serve(tmp_path: Path, server: Upstream) -> AsyncIterator[Serve]:
    proxies: list[Proxy] = []

    async def make(
        grant: Network | None = None,
        *,
        outside: Outside | None = None,
        limits: Limits | None = None,
    ) -> World:
        audit = Audit()
        proxy = Proxy(
            audit,
            SystemClock(),
            outside=outside or loopback_outside(server.port),
            limits=limits,
        )
        proxies.append(proxy)
        door = tmp_path / "net" / "daemon"
        proxy.open(TASK, grant or network(), door)
        return World(proxy, door, audit, server)

    yield make
    for proxy in proxies:
        await proxy.close()
