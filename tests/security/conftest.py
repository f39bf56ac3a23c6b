"""The machines of the system tests, for abuse cases that need real daemons, and a pair of halves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.conftest import found, model
from tests.system.daemon.conftest import anyio_backend, ground, make_machine, testnet
from tests.unit.daemon.conftest import Pair

__all__ = ["anyio_backend", "found", "ground", "make_machine", "model", "pair", "testnet"]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """`asker` and `doer`, linked: real stores, workers and rules; shims and network are fakes."""
    made = Pair(tmp_path)
    for half in (made.asker, made.doer):
        await half.start()
    await made.connect()
    yield made
    for half in (made.asker, made.doer):
        await half.stop()
