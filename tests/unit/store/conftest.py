"""A clock that stands still, records to commit, and stores that are closed again."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cmesh.store.store import Store
from tests.unit.store.support import FixedClock

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def open_store(tmp_path: Path, clock: FixedClock) -> AsyncIterator[OpenStore]:
    async with AsyncExitStack() as stack:

        async def make(name: str = "state", **options: Any) -> Store:
            store = await Store.open(tmp_path / name, clock=clock, node="nSELF", **options)
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
