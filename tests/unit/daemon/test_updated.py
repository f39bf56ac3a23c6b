"""An agent that updates itself, or is set otherwise, while a task waits for its turn."""

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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("program = ", 'program = "/bin/cat" #', "`program`"),
        ("key_file = ", 'base_url = "http://127.0.0.1:9"\nkey_file = ', "`base_url`"),
        ("key_file = ", 'env = { A = "b" }\nkey_file = ', "`env`"),
        ("key_file = ", 'model = "other"\nkey_file = ', "`model`"),
        ("key_file = ", "# ", "has no key"),
        # A key that is renewed ends nothing: another file of it is no other act.
        ("agent.key", "renewed.key", ""),
    ],
)
async def test_a_runner_that_was_set_otherwise_while_a_task_waited_is_not_started(
    pair: Pair, old: str, new: str, said: str
) -> None:
    doer = pair.doer
    doer.enforcement = OWN_NETWORK
    text = f"[worker]\nconcurrent = 1\n{agent_config(doer)}"
    (doer.base / "renewed.key").write_text("sk-test-renewed", "utf-8")
    (doer.base / "renewed.key").chmod(0o600)
    doer.configure(text)
    await doer.restart()
    await pair.connect()
    first = await pair.asker.delegate(doer, profile=Profile.QUERY)
    await doer.until(first, "running")
    second = await pair.asker.delegate(doer, profile=Profile.QUERY, runner="claude")
    await pair.asker.until(second, "accepted")
    assert old in text
    doer.configure(text.replace(old, new, 1))
    doer.shims.finish(first)
    ended = await doer.until(second, "running", "cancelled")
    if said:
        assert (ended.state, ended.code) == ("cancelled", "runner_unavailable")
        assert said in ended.reason
        assert doer.shims.starts[second] == 0
    else:
        assert ended.state == "running"
        # The gateway reads it for each request.
        network = doer.base / "tasks" / second / "network.json"
        assert "renewed.key" in network.read_text("ascii")
