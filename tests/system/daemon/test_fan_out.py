"""One call asks several machines: each once, one refusal stops no other, results side by side."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cmesh.daemon.answers import GroupView
from cmesh.daemon.arguments import (
    CancelGroupArguments,
    FanOutArguments,
    GroupArguments,
    NoArguments,
)
from cmesh.errors import NoPeerMatches, PolicyDenied, TaskConflict, UnknownPeer, UsageError
from cmesh.model import TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually
from tests.system.daemon.test_where import acquaint, told

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

RUNNERS = ["command:check", "command:held"]
CHECK = ("/bin/sh", "-c", "pwd; test -e pass || exit 3")
KEY = "sk-ant-fan-0000"


def worker(place: Path, label: str) -> str:
    held = command("held", "/bin/sh", "-c", "echo held; exec sleep 300")
    head = f'labels = ["{label}", "crew"]\n'
    return head + command("check", *CHECK) + held + inbound(place, RUNNERS)


async def fan_out(caller: Machine, *peers: str, **more: Any) -> GroupView:
    fields = {"prompt": "check it", "runner": "command:check", "profile": "full", **more}
    arguments = FanOutArguments.model_validate({"peers": list(peers), **fields})
    return GroupView.model_validate(await caller.call("fan_out", arguments))


async def group(caller: Machine, name: str) -> GroupView:
    return GroupView.model_validate(await caller.call("get_group", GroupArguments(group=name)))


async def tasks_of(machine: Machine) -> int:
    return (await machine.sql("SELECT count(*) FROM tasks WHERE prompt = 'check it'"))[0][0]


async def test_each_peer_gets_its_task_once_whoever_refuses_or_is_away(
    make_machine: MakeMachine, ground: Path
) -> None:
    place, failing = ground / "crew", ground / "crew" / "failing"
    failing.mkdir(parents=True, mode=0o755)
    (place / "pass").touch()
    caller = await make_machine("captain", OUTBOUND)
    names = ("one", "two", "three", "four")
    workers = [await make_machine(name, worker(place, name)) for name in names]
    _one, _two, three, four = workers
    await asyncio.gather(*(machine.up() for machine in (caller, *workers)))
    for machine in workers:
        await acquaint_by(caller, machine, place)
    denied = (await three.status()).node_id
    rule = f'[[outbound.deny]]\nname = "not three"\npeers = ["node:{denied}"]\n'
    await caller.configure(OUTBOUND + rule)
    await four.stop()

    peers = ["one", f"two:{failing}", "three", "four"]
    fields: dict[str, Any] = {"directory": str(place), "idempotency_key": "night", "wait_s": 40}
    view = await fan_out(caller, *peers, **fields)
    states = [(task.peer, task.state, task.exit_code, task.code) for task in view.tasks]
    assert states == [
        ("one", TaskState.SUCCEEDED, 0, ""),
        ("two", TaskState.FAILED, 3, ""),
        ("four", TaskState.CANCELLED, None, "peer_unreachable"),
    ]
    assert [(r.peer, r.code) for r in view.refused] == [
        ("three", "policy_denied"),
        ("four", "peer_unreachable"),
    ]
    assert (view.asked, view.ended, view.succeeded, view.done) == (4, 3, 1, True)
    assert view.tasks[0].summary.strip() == str(place)
    assert view.tasks[1].summary.strip().startswith(str(failing))

    # The same call again: the same tasks, and nothing is started twice, four not even once.
    await four.up()
    again = await fan_out(caller, *peers, **fields)
    assert again.repeated
    assert [task.task_id for task in again.tasks] == [task.task_id for task in view.tasks]
    assert [await tasks_of(machine) for machine in (caller, *workers)] == [3, 1, 1, 0, 0]
    with pytest.raises(TaskConflict):
        await fan_out(caller, "one", "two", **fields)
    with pytest.raises(TaskConflict):
        await fan_out(caller, *peers, **(fields | {"prompt": "another"}))
    with pytest.raises(TaskConflict):
        await fan_out(caller, *peers, **(fields | {"directory": str(place / "another")}))
    # Another session or a restart knows the group, and its refusals.
    await caller.stop()
    copies = caller.state / "store" / "snapshots"
    assert not list(copies.glob("query-*")), "a query's folder outlived its process"
    await caller.up()
    kept = await group(caller, view.group[:8])
    assert [(r.peer, r.code) for r in kept.refused] == [("three", "policy_denied")]
    assert [task.task_id for task in kept.tasks] == [task.task_id for task in view.tasks]
    done = caller.cli("wait", view.group)
    assert done.returncode == 45, "the first one in the order asked that did not succeed"
    lines = done.stdout.splitlines()
    assert lines[0].startswith("PEER\tSTATE\t")
    assert [line.split("\t")[:4] for line in lines[1:]] == [
        ["one", "succeeded", "", "0"],
        ["two", "failed", "", "3"],
        ["four", "cancelled", "peer_unreachable", ""],
        ["three", "refused", "policy_denied", ""],
    ]
    listed = caller.cli("tasks", "--group", view.group).stdout.splitlines()
    assert len(listed) == 4
    rows = await caller.sql(f"SELECT count(*) FROM tasks WHERE group_id = '{view.group}'")
    assert rows == [[3]]

    await nothing_is_begun_for_nobody(caller, place)
    # A whole group is ended as one; its tasks are those of the machines that match.
    held = await fan_out(caller, where=["crew"], directory=str(place), runner="command:held")
    assert held.chosen.startswith("chose all 3 that match: four, one, two; not: three (")

    async def run() -> bool | None:
        now = await group(caller, held.group)
        return all(task.state is TaskState.RUNNING for task in now.tasks) or None

    await eventually(run)
    await caller.call("cancel_group", CancelGroupArguments(group=held.group))

    async def ended() -> GroupView | None:
        now = await group(caller, held.group)
        return now if now.done else None

    gone = await eventually(ended)
    assert {(task.state, task.processes_left) for task in gone.tasks} == {(TaskState.CANCELLED, 0)}


async def acquaint_by(caller: Machine, other: Machine, place: Path) -> None:
    """Make the first contact by a task that is none of those counted."""
    await caller.delegate(other.name, "command:check", place, prompt="hello")
    await other.trust(caller)
    await told(caller, other.name, other.name)


async def nothing_is_begun_for_nobody(caller: Machine, place: Path) -> None:
    before = await caller.sql("SELECT count(*) FROM tasks")
    with pytest.raises(UnknownPeer):
        await fan_out(caller, "one", "tow", directory=str(place))
    with pytest.raises(UsageError, match="named twice"):
        await fan_out(caller, "one", "one:/tmp", directory=str(place))
    with pytest.raises(UsageError, match="no directory is named for `two`"):
        await fan_out(caller, f"one:{place}", "two")
    with pytest.raises(PolicyDenied):
        await fan_out(caller, "three", directory=str(place))
    with pytest.raises(NoPeerMatches):
        await fan_out(caller, where=["os=plan9"], directory=str(place))
    assert await caller.sql("SELECT count(*) FROM tasks") == before


async def test_an_agent_asks_every_machine_whose_agent_can_start(
    make_machine: MakeMachine, ground: Path, model: ModelServer
) -> None:
    if CLAUDE is None:
        pytest.skip("no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm")
    place = ground / "agents"
    place.mkdir(mode=0o755)
    caller = await make_machine("agent-caller", OUTBOUND)
    workers: list[Machine] = []
    for name in ("left", "right", "bare"):
        machine = await make_machine(name)
        key = machine.config / "agent.key"
        key.write_text(KEY, "utf-8")
        key.chmod(0o600)
        program = CLAUDE if name != "bare" else "/nowhere/claude"
        table = f'[runners.claude]\nprogram = "{program}"\nkey_file = "{key}"\n'
        text = f'{table}base_url = "{model.url}"\n' + inbound(place, ["claude"])
        await machine.configure(f'labels = ["{name}"]\n{text}')
        workers.append(machine)
    await asyncio.gather(*(machine.up() for machine in (caller, *workers)))
    for machine in workers:
        await acquaint(caller, machine, place)
        await told(caller, machine.name, machine.name)
    model.scripts = {"look": [{"text": "all is well here"}]}
    async with caller.mcp() as agent:
        begun = await agent.call(
            "delegate",
            where=["runner=claude"],
            all=True,
            prompt="look <<fake:look>>",
            directory=str(place),
            runner="claude",
            profile="full",
            wait_s=0,
        )
        assert not begun.is_error, begun.text
        assert "not: bare (no runner claude)" in begun.get("chosen")
        name = str(begun.fields["group"])
        ended = await agent.call("get_task", task_id=name, wait_s=40)
        while not ended.fields["done"]:
            ended = await agent.call("get_task", task_id=name, wait_s=40)
        rows: Any = ended.fields["tasks"]
        assert [(row["peer"], row["state"]) for row in rows] == [
            ("left", "succeeded"),
            ("right", "succeeded"),
        ]
        assert ended.get("says").count("all is well here") == 2
        text = (await agent.call("get_result", task_id=name)).text
        assert text.count("all is well here") == 2
        assert "<<<cmesh:" in text
    peers = (await caller.call("list_peers", NoArguments()))["peers"]
    bare = next(peer for peer in peers if peer["name"] == "bare")
    assert [(one["name"], one["ready"]) for one in bare["machine"]["runners"]] == [
        ("claude", False)
    ]
