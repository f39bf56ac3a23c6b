"""A fake daemon and relays as processes, in a state directory of their own."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.system.mcp.support import Daemon, MakeRelay, Relay


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def state() -> Iterator[Path]:
    # pytest's own temporary paths are too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        path = Path(directory) / "s"
        path.mkdir(mode=0o700)
        yield path


@pytest.fixture
async def daemon(state: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(state)
    await daemon.start()
    yield daemon
    await daemon.kill()


@pytest.fixture
async def make_relay(state: Path) -> AsyncIterator[MakeRelay]:
    async with AsyncExitStack() as stack:

        async def make(*start: str) -> Relay:
            return await stack.enter_async_context(Relay(state, start))

        yield make
