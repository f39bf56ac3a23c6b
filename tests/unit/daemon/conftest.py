from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.fakes.half import Half, StillClock, connect


class Pair:
    """`asker` asks, `doer` works."""

    def __init__(self, base: Path) -> None:
        self.clock = StillClock()
        self.asker = Half("asker", base, self.clock)
        self.doer = Half("doer", base, self.clock)

    async def connect(self) -> None:
        await connect(self.asker, self.doer)


class MakePair(Protocol):
    async def __call__(self, *, linked: bool = True) -> Pair: ...


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both halves run; a test connects them."""
    made = Pair(tmp_path)
    halves = (made.asker, made.doer)
    for half in halves:
        await half.start()
    made.asker.known[made.doer.node_id] = made.doer.identity
    made.doer.known[made.asker.node_id] = made.asker.identity
    yield made
    for half in halves:
        await half.stop()
