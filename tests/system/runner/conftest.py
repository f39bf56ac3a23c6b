"""A worker with real shims; after each test none of its processes may be left."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.runner.support import Worker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker(tmp_path / "tasks")
    await worker.supervisor.start()
    yield worker
    await worker.supervisor.close()
    log = tmp_path / "tasks" / "shim.log"
    assert log.read_text() == ""
