"""An agent that updates itself while a task waits for its turn."""

import pytest

from cmesh.model import Profile
from tests.unit.daemon.conftest import OWN_NETWORK, Pair, agent_config

pytestmark = pytest.mark.anyio


async def test_a_waiting_task_is_not_started_with_a_program_that_came_since(pair: Pair) -> None:
    doer = pair.doer
    doer.enforcement = OWN_NETWORK
    doer.configure(f"[worker]\nconcurrent = 1\n{agent_config(doer)}")
    await doer.restart()
    await pair.connect()
    first = await pair.asker.delegate(doer, profile=Profile.QUERY)
    await doer.until(first, "running")
    second = await pair.asker.delegate(doer, profile=Profile.QUERY, runner="claude")
    await pair.asker.until(second, "accepted")
    agent_config(doer, version="2.2.0")  # it updates itself
    doer.shims.finish(first)
    ended = await doer.until(second, "running", "cancelled")
    assert (ended.state, ended.code) == ("cancelled", "runner_unavailable")
    assert doer.shims.starts[second] == 0
