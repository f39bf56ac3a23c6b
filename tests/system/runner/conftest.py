"""A worker with real shims; after each test none of its processes may be left."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmesh.runner.launch import Containment
from tests.system.runner.support import Worker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def containment() -> Containment:
    """Return what tasks are launched with; tests of how they end are run with each kind."""
    return "pid_namespace"


@pytest.fixture
async def worker(tmp_path: Path, containment: Containment) -> AsyncIterator[Worker]:
    worker = Worker(tmp_path / "tasks", containment)
    await worker.supervisor.start()
    await worker.eventually(lambda: worker.supervisor.containment != ("", ""))
    yield worker
    await worker.supervisor.close()
    log = tmp_path / "tasks" / "shim.log"
    assert log.read_text() == ""
