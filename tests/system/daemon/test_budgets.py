"""Limits of a task, held while it runs: real agents stopped at a limit, with what they had done."""

from collections.abc import Mapping
from typing import Any

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.model import Profile, TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, here
from tests.system.daemon.test_agent_query import AGENTS, KEY, config, program_of
from tests.system.runner.copying import commit

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

ORDERS = ("echo fixed >>code", "echo two", "echo three")

LIMITS: Mapping[str, tuple[Mapping[str, int], str, int]] = {
    "claude": ({"tokens": 350}, "tokens: 360 of 350 tokens used", 3),
    "codex": ({"turns": 3}, "turns: 3 of 3 turns used", 3),
}
"""What each is held to, what its end says, and the answers until then: 120 tokens each."""


def warnings(view: TaskView) -> list[tuple[object, object]]:
    return [
        (event.data["limit"], event.data["most"])
        for event in view.events
        if event.kind == "warning" and "limit" in event.data
    ]


async def agents(
    make_machine: MakeMachine, model: ModelServer, name: str
) -> tuple[Machine, Machine, Any]:
    """Return a laptop, a builder that trusts it, and a directory the agent may edit."""
    laptop = await make_machine(f"laptop-{name}", OUTBOUND, user=here())
    builder = await make_machine(f"builder-{name}")
    place = builder.directory(f"app-{name}")
    (place / "code").write_text("broken\n")
    commit(place)
    key_file = builder.base / "config" / "agent.key"
    key_file.write_text(KEY, "utf-8")
    key_file.chmod(0o600)
    text = config(name, key_file, model.url, place).replace('["query"]', '["query", "edit"]')
    await builder.configure(text)
    await builder.up()
    await laptop.up()
    return laptop, builder, place


@pytest.mark.parametrize("name", LIMITS)
async def test_an_agent_is_stopped_at_a_limit_and_its_patch_is_kept(
    make_machine: MakeMachine, model: ModelServer, name: str
) -> None:
    program_of(name)
    limits, words, turns = LIMITS[name]
    laptop, builder, place = await agents(make_machine, model, name)
    orders = [dict(AGENTS[name].order(order, place)) for order in ORDERS]
    model.scripts = {"long": [*orders, {"hang": True}]}
    first = await laptop.delegate(
        builder.name, name, place, prompt="go <<fake:long>>", profile=Profile.EDIT, **limits
    )
    await builder.trust(laptop)
    view = await laptop.ended(first.task_id, 120)
    if "tier3" not in (await builder.status()).enforcement:
        pytest.skip("no sandbox of tier 3 here")
    assert (view.state, view.code) == (TaskState.FAILED, "budget_spent"), view
    assert view.witness.startswith(words)
    assert view.processes_left == 0
    assert view.patch is not None
    assert view.patch.changed == ["M code"]
    assert view.model_turns == turns
    (limit, most), *_ = limits.items()
    shown = await laptop.task(view.task_id, events=100)
    assert warnings(shown) == [(limit, most)]
    asked = await builder.sql(
        "SELECT limit_turns, limit_tokens, model_turns FROM tasks WHERE direction = 'in'"
    )
    assert asked == [[limits.get("turns"), limits.get("tokens"), turns]]
    bill = laptop.cli("show", view.task_id).stdout
    assert f"{turns} of 3" in bill if name == "codex" else "360 of 350" in bill


async def test_a_limit_that_a_runner_cannot_tell_is_refused_before_the_start(
    make_machine: MakeMachine,
) -> None:
    laptop = await make_machine("laptop-cannot", OUTBOUND)
    builder = await make_machine("builder-cannot")
    place = builder.directory("app")
    text = command("true", "/bin/true") + inbound(place, ["command:true"])
    await builder.configure(text)
    await builder.up()
    await laptop.up()
    first = await laptop.delegate(builder.name, "command:true", place)
    await builder.trust(laptop)
    assert (await laptop.ended(first.task_id)).state is TaskState.SUCCEEDED
    for limit in ("turns", "tokens", "cost_usd"):
        view = await laptop.delegate(
            builder.name, "command:true", place, new=True, wait_s=20, **{limit: 5}
        )
        assert (view.state, view.code) == (TaskState.DENIED, "policy_denied")
        assert limit in view.reason
    said = await builder.sql("SELECT failed FROM denials ORDER BY seq DESC LIMIT 1")
    assert "reports its cost" in str(said)


async def test_the_caller_is_warned_when_most_of_the_time_is_over(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, builder = pair
    place = builder.directory("app")
    view = await laptop.delegate(builder.name, "command:sleep", place, timeout_s=3, new=True)
    ended = await laptop.ended(view.task_id)
    assert ended.state is TaskState.TIMED_OUT
    shown = await laptop.task(view.task_id, events=100)
    assert warnings(shown) == [("runtime_s", 3)]


async def test_what_a_peer_has_used_today_counts_also_after_a_restart(
    make_machine: MakeMachine,
) -> None:
    laptop = await make_machine("laptop-daily", OUTBOUND)
    builder = await make_machine("builder-daily")
    place = builder.directory("app")
    rule = inbound(place, ["command:sleep"], 'limits = { runtime_per_day = "3s" }')
    await builder.configure(command("sleep", "/bin/sleep", "300") + rule)
    await builder.up()
    await laptop.up()
    first = await laptop.delegate(builder.name, "command:sleep", place, timeout_s=600)
    await builder.trust(laptop)

    async def refused() -> TaskView:
        view = await laptop.delegate(
            builder.name, "command:sleep", place, timeout_s=1, new=True, wait_s=20
        )
        assert (view.state, view.code) == (TaskState.DENIED, "busy"), view
        assert "runtime_per_day" in view.reason
        return view

    # It was given all that is left of the day, so nothing is left for another one meanwhile.
    assert (await refused()).retry_after_s in range(50, 70)
    assert (await laptop.ended(first.task_id)).state is TaskState.TIMED_OUT
    later = await refused()
    await builder.stop()
    await builder.start()
    await builder.up()
    restarted = await refused()
    for view in (later, restarted):
        assert view.retry_after_s is not None
    said = await builder.sql("SELECT failed FROM denials ORDER BY seq DESC LIMIT 1")
    assert "less than 3 s a day" in str(said)
