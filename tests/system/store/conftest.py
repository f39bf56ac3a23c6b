"""A store of its own for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.store.sql import QueryLimits
from cmesh.store.store import Store
from tests.unit.store.support import event, result, state, task

WALL_S = 3.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    limits = QueryLimits(wall_s=WALL_S, answer_bytes=1_000_000)
    store = await Store.open(
        tmp_path / "state", clock=SystemClock(), node="nSELF", query_limits=limits
    )
    asked = task(prompt="find the fault")
    await store.commit([asked, event(asked, 1), state(asked, "succeeded"), result(asked)])
    yield store
    await store.close()
