"""A test tailnet and nodes on it; after each test nothing native may be left."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.node import ffi
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.system.node.support import ALICE, EVENT_LIMIT_S, Eventually, MakeNode, T, Until

POLL_S = 0.02
LEFT_BEHIND = ("nodes", "listeners", "connections", "watches", "operations")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = json.loads(ffi.counters())
    yield
    after = json.loads(ffi.counters())
    assert {k: after[k] for k in LEFT_BEHIND} == {k: before[k] for k in LEFT_BEHIND}


@pytest.fixture
async def testnet() -> AsyncIterator[Testnet]:
    async with Testnet() as running:
        yield running


@pytest.fixture
async def make_node(testnet: Testnet, tmp_path: Path) -> AsyncIterator[MakeNode]:
    async with AsyncExitStack() as stack:

        async def make(
            name: str, *, user: str = ALICE, tags: tuple[str, ...] = (), ephemeral: bool = False
        ) -> Node:
            options = NodeOptions(
                state_dir=tmp_path / name,
                hostname=name,
                control_url=testnet.control_url,
                auth_key=await testnet.auth_key(user, tags=tags),
                ephemeral=ephemeral,
                allow_testnet=True,
            )
            node = await stack.enter_async_context(Node(options))
            await node.up()
            return node

        yield make


@pytest.fixture
def until() -> Until:
    """Return a wait: look again at each notification until there is an answer."""

    async def wait(node: Node, check: Callable[[], Awaitable[T | None]]) -> T:
        async with asyncio.timeout(EVENT_LIMIT_S), aclosing(node.notifications()) as news:
            async for _ in news:
                answer = await check()
                if answer is not None:
                    return answer
        raise AssertionError("the node closed before it happened")

    return wait


@pytest.fixture
def eventually() -> Eventually:
    """Return a bounded poll, for native counters, which announce nothing."""

    async def wait(check: Callable[[], bool]) -> None:
        async with asyncio.timeout(EVENT_LIMIT_S):
            while not check():
                await asyncio.sleep(POLL_S)

    return wait


@pytest.fixture
def long_ago() -> datetime:
    return datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def in_ten_days() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=10)
