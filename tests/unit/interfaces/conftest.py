"""A state directory with a short path, and a control server over the fake daemon."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cmesh.interfaces.control import ControlServer
from cmesh.paths import control_socket
from tests.fakes.operations import FakeOperations


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # pytest's own temporary paths are too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        monkeypatch.setenv("CMESH_STATE_DIR", f"{directory}/s")
        monkeypatch.setenv("CMESH_CONFIG_DIR", f"{directory}/c")
        yield Path(directory) / "s"


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
async def server(state: Path, operations: FakeOperations) -> AsyncIterator[ControlServer]:
    async with ControlServer(control_socket(state), operations) as running:
        yield running
