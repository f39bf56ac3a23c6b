"""The short form of `scripts/chaos-sessions`: one session each, a few kills and a replacement."""

import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.node.testnet import Testnet
from tests.chaos.agent_session import AgentSession
from tests.chaos.session_rounds import KINDS, Rounds, field_of
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE, CODEX

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        CLAUDE is None or CODEX is None,
        reason="no `claude` or no `codex`: install them under .cache/npm",
    ),
]

SEED = 5


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


async def test_sessions_of_real_agents_go_on_over_every_kind_of_end_of_a_daemon(
    ground: Path, testnet: Testnet, model: ModelServer
) -> None:
    async with AsyncExitStack() as stack:
        field = await stack.enter_async_context(field_of(ground, testnet))
        sessions = [
            await stack.enter_async_context(AgentSession(name, field.laptop, model))
            for name in ("claude", "codex")
        ]
        rounds = Rounds(field, sessions, random.Random(SEED))
        await rounds.calibrate(1)
        for kind in KINDS:
            await rounds.play(kind)
        await rounds.close()
    assert rounds.failed == []
