"""Peers tell what their machines are; a caller sees it and has one chosen by it."""

import asyncio
from pathlib import Path

import pytest

from cmesh.daemon.answers import MachineView, PeerView
from cmesh.daemon.arguments import DelegateArguments, ExplainArguments, NoArguments
from cmesh.errors import NoPeerMatches
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually
from tests.system.daemon.versions import Installed, install

pytestmark = [pytest.mark.anyio, pytest.mark.system]

TRUE = command("true", "/bin/true") + command("held", "/bin/sh", "-c", "exec sleep 300")
RUNNERS = ["command:true", "command:held"]


def worker(place: Path, node: str = "") -> str:
    return node + TRUE + inbound(place, RUNNERS)


async def peer(caller: Machine, name: str) -> PeerView:
    peers = (await caller.call("list_peers", NoArguments()))["peers"]
    return next(PeerView.model_validate(one) for one in peers if one["name"] == name)


async def told(caller: Machine, name: str, label: str) -> MachineView:
    """Wait until a peer has told of its machine, with a label."""

    async def has_told() -> MachineView | None:
        machine = (await peer(caller, name)).machine
        return machine if machine and label in (machine.labels or ()) else None

    return await eventually(has_told)


async def acquaint(caller: Machine, other: Machine, place: Path) -> None:
    """Make the first contact, as an owner does."""
    await caller.delegate(other.name, "command:true", place)
    await other.trust(caller)


async def chosen(caller: Machine, place: Path, *where: str, **more: object) -> dict[str, object]:
    fields = {
        "prompt": "do it",
        "directory": str(place),
        "runner": "command:true",
        "profile": "full",
        "where": list(where),
        **more,
    }
    return await caller.call("delegate", DelegateArguments.model_validate(fields))


async def test_a_peer_is_chosen_by_what_its_machine_is(
    make_machine: MakeMachine, ground: Path
) -> None:
    place = ground / "shared"
    place.mkdir(mode=0o755)
    caller = await make_machine("asker", OUTBOUND)
    lab = await make_machine("lab", worker(place, 'labels = ["lab", "both"]\n'))
    nas = await make_machine("nas", worker(place, 'labels = ["both"]\n'))
    await asyncio.gather(*(one.up() for one in (caller, lab, nas)))
    for one in (lab, nas):
        await acquaint(caller, one, place)
    machine = await told(caller, "lab", "lab")
    assert machine.os == "linux"
    assert machine.memory is not None
    assert [(one.name, one.ready) for one in machine.runners or ()] == [
        ("command:held", True),
        ("command:true", True),
    ]
    status = await lab.status()
    own = status.machine
    assert "command:true" in status.runners
    assert "gemini" not in status.runners
    assert "gemini" in status.runners_down, "it has no key here"
    assert own is not None
    assert (own.tools, own.labels) == (machine.tools, ["lab", "both"])
    await told(caller, "nas", "both")

    first = await chosen(caller, place, "label=lab", "cpus>=1", idempotency_key="once")
    assert first["peer"] == "lab"
    assert first["chosen"] == "chose lab, the only one that matches; not: nas (no label lab)"
    again = await chosen(caller, place, "label=lab", "cpus>=1", idempotency_key="once")
    assert again["task_id"] == first["task_id"]
    shown = await caller.sql("SELECT chosen FROM tasks WHERE idempotency_key = 'once'")
    assert shown == [[first["chosen"]]]

    question = ExplainArguments(
        direction="outbound", peer="lab", profile=Profile.FULL, runner="claude", directory="/etc"
    )
    explained = await caller.call("explain", question)
    assert explained["effect"] == "allow"
    assert "it offers runners `command:" in str(explained["there"])
    assert f"paths `{place}`" in str(explained["there"])
    busy = await chosen(caller, place, "both", runner="command:held", new=True)
    assert busy["peer"] == "lab", "the first by name"
    other = await chosen(caller, place, "both", new=True)
    assert other["peer"] == "nas", "the one with fewer tasks"
    with pytest.raises(NoPeerMatches) as refused:
        await chosen(caller, place, "os=linux", "memory>=900T")
    assert "lab: memory is " in refused.value.message
    assert "nas: memory is " in refused.value.message
    said = caller.cli("delegate", "--where", "lab", "do it", "-C", str(place), "--profile", "full",
                      "--runner", "command:true")  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "chose lab, the only one that matches" in said.stderr

    # Facts that change are told anew, and the next choice is by them.
    await nas.configure(worker(place, 'labels = ["lab"]\ntell = ["labels"]\n'))
    changed = await told(caller, "nas", "lab")
    assert (changed.os, changed.tools, changed.runners) == ("", None, None)
    moved = await chosen(caller, place, "lab", new=True)
    assert moved["peer"] == "nas", "lab still has a task"
    # What was told is kept while its peer is away, and it is not chosen then.
    await nas.stop()
    kept = (await peer(caller, "nas")).machine
    assert kept is not None
    assert kept.labels == ["lab"]
    back = await chosen(caller, place, "lab", new=True)
    assert back["peer"] == "lab"
    assert "nas (it cannot be reached now)" in str(back["chosen"])


async def test_a_peer_of_a_version_that_tells_nothing_works_and_is_not_chosen(
    make_machine: MakeMachine, ground: Path, testnet: Testnet
) -> None:
    place = ground / "older-place"
    place.mkdir(mode=0o755)
    field = "    machine: Annotated[Machine | None, Field(exclude_if=is_unset)] = None\n"
    version = install(
        ground,
        "0.0.9",
        changes=[
            ("protocol/link_messages.py", field, ""),
            ("daemon/core.py", "            machine=machine,\n", ""),
            ("daemon/machines.py", "if may.machine is None:", "if True:"),
        ],
    )
    caller = await make_machine("newer", OUTBOUND + worker(place))
    old = Installed("older", ground, testnet, version)
    try:
        await old.configure(worker(place) + OUTBOUND + "[worker]\nallow_root = true\n")
        await asyncio.gather(caller.up(), old.up())
        await acquaint(caller, old, place)
        ended = await caller.delegate("older", "command:true", place, new=True, wait_s=40)
        assert ended.state is TaskState.SUCCEEDED, ended.reason
        assert (await peer(caller, "older")).machine is None
        with pytest.raises(NoPeerMatches) as refused:
            await chosen(caller, place, "os=linux")
        assert "older: it has told nothing of its machine" in refused.value.message
        # The other way: what the newer one tells is left unread.
        back = await old.delegate("newer", "command:true", place)
        assert (await old.ended(back.task_id)).state is TaskState.SUCCEEDED
    finally:
        await old.stop()
