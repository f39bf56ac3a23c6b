"""A peer that is off, one that comes back as another node, and agents that ask twice."""

import asyncio
import shutil
from pathlib import Path

import pytest

from cmesh.daemon.arguments import CancelArguments, NoArguments
from cmesh.errors import CmeshError, NotCmesh, PeerUnreachable, WrongMachine
from cmesh.model import TaskState
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import ME, READY_LIMIT_S, Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

Pair = tuple[Machine, Machine]
LEDGER = ("/bin/sh", "-c", "echo $CMESH_TASK >> ledger; cat")
HELD = ("/bin/sh", "-c", "echo $CMESH_TASK >> ledger; while ! [ -e go ]; do sleep 0.05; done")


async def two(make_machine: MakeMachine, ground: Path, names: str) -> Pair:
    """Make a caller and a worker that know each other, with runners that keep a ledger."""
    caller_name, worker_name = f"{names}-caller", f"{names}-worker"
    place = ground / worker_name / "app"
    text = command("ledger", *LEDGER) + command("held", *HELD)
    rule = inbound(place, ["command:ledger", "command:held"])
    caller = await make_machine(caller_name, OUTBOUND)
    worker = await make_machine(worker_name, text + rule)
    worker.directory("app")
    await asyncio.gather(caller.up(), worker.up())
    first = await caller.delegate(worker_name, "command:ledger", place, prompt="first")
    await worker.trust(caller)
    await eventually(lambda: starts_of(worker, 1))
    await caller.ended(first.task_id)  # else it is unfinished for as long as the worker is off
    return caller, worker


def starts(worker: Machine) -> list[str]:
    """Return the ids of the tasks that were really started, in order."""
    ledger = worker.base / "app" / "ledger"
    return ledger.read_text("utf-8").split() if ledger.exists() else []


async def starts_of(worker: Machine, count: int) -> bool | None:
    return len(starts(worker)) >= count or None


async def test_a_peer_that_is_off_is_said_at_once_and_nothing_ever_runs(
    make_machine: MakeMachine, ground: Path
) -> None:
    caller, worker = await two(make_machine, ground, "off")
    place = worker.base / "app"
    await worker.stop()
    with pytest.raises(PeerUnreachable) as refused:
        await caller.delegate(
            "off-worker", "command:ledger", place, prompt="now", if_offline="fail", new=True
        )
    assert "--if-offline queue" in refused.value.hint
    query = "SELECT state, code FROM tasks WHERE prompt = 'now'"
    assert await caller.sql(query) == [["cancelled", "peer_unreachable"]]
    queued = await caller.delegate("off-worker", "command:ledger", place, prompt="later")
    assert (queued.state, queued.code) == (TaskState.SUBMITTING, "peer_unreachable")
    assert "kept here, and sent once `off-worker` takes it, until 2" in queued.reason
    assert "--if-offline" not in queued.reason
    [box] = (await caller.status()).outbox
    assert (box.peer, box.tasks, box.code) == ("off-worker", 1, "peer_unreachable")
    assert box.expires_at == queued.expires_at
    status = caller.cli("status").stdout
    assert "handed out   1 unfinished\n" in status
    assert "1 submitting to off-worker, link " in status
    await worker.up()
    ended = await caller.ended(queued.task_id)
    assert (ended.state, ended.expires_at) == (TaskState.SUCCEEDED, None)
    assert starts(worker)[1:] == [queued.task_id]
    after = await caller.status()
    assert (after.handed_out, after.outbox) == (0, [])


async def test_a_command_that_queues_says_once_what_becomes_of_the_task(
    make_machine: MakeMachine, ground: Path
) -> None:
    caller, worker = await two(make_machine, ground, "once")
    await worker.stop()
    words = ["delegate", "once-worker", "later", "-C", str(worker.base / "app")]
    words += ["--runner", "command:ledger", "--profile", "full", "--if-offline", "queue"]
    done = caller.cli(*words, "--no-wait")
    assert done.returncode == 0
    assert done.stderr.count("does not answer within") == 1
    assert done.stderr.count("kept here, and sent once `once-worker` takes it") == 1
    assert "--if-offline" not in done.stderr
    assert done.stderr.endswith(f"hint: cmesh show {done.stdout.strip()}\n")


async def test_a_worker_whose_daemon_does_not_run_is_waited_for_like_one_that_is_off(
    make_machine: MakeMachine, ground: Path, testnet: Testnet, tmp_path: Path
) -> None:
    caller, worker = await two(make_machine, ground, "bare")
    place = worker.base / "app"
    await worker.stop()
    # The same node without a daemon: a peer that answers, and where nothing listens.
    shutil.copytree(worker.state / "node", tmp_path / "node")
    options = NodeOptions(
        state_dir=tmp_path / "node",
        hostname="bare-worker",
        control_url=testnet.control_url,
        allow_testnet=True,
    )
    async with Node(options) as node:
        await node.up(timeout_s=READY_LIMIT_S)

        async def refused() -> bool | None:
            try:
                await caller.delegate(
                    "bare-worker",
                    "command:ledger",
                    place,
                    prompt="now",
                    if_offline="fail",
                    new=True,
                )
            except NotCmesh:
                return True
            except PeerUnreachable:  # the caller has not heard of the node's return yet
                return None
            raise AssertionError("it was taken by nobody")

        await eventually(refused, READY_LIMIT_S)
        kept = await caller.delegate("bare-worker", "command:ledger", place, prompt="later")
        assert kept.state is TaskState.SUBMITTING
    await worker.up()
    assert (await caller.ended(kept.task_id)).state is TaskState.SUCCEEDED
    assert starts(worker)[1:] == [kept.task_id]


async def test_a_worker_that_logs_in_as_another_node_runs_nothing_twice(
    make_machine: MakeMachine, ground: Path, testnet: Testnet
) -> None:
    caller, worker = await two(make_machine, ground, "new")
    place = worker.base / "app"
    held = await caller.delegate("new-worker", "command:held", place, prompt="hold")
    await eventually(lambda: starts_of(worker, 2))
    before = (await worker.status()).node_id
    await worker.stop()
    shutil.rmtree(worker.state / "node")
    (worker.state / "node_id").unlink()
    (worker.config / "authkey").write_text(await testnet.auth_key(ME), "utf-8")
    await worker.up()
    assert (await worker.status()).node_id != before
    (place / "go").touch()

    async def ended_there() -> bool | None:
        return (await worker.task(held.task_id)).state is TaskState.SUCCEEDED or None

    await eventually(ended_there)
    # The caller asked a node that is gone. It claims no end, and asks no other node.
    here = await caller.task(held.task_id)
    assert here.state in {TaskState.RUNNING, TaskState.QUEUED, TaskState.UNKNOWN}
    assert here.link != "connected"
    await caller.call("cancel_task", CancelArguments(task_id=held.task_id))
    assert (await caller.task(held.task_id)).state is TaskState.CANCELLING

    async def seen() -> bool | None:
        peers = (await caller.call("list_peers", NoArguments()))["peers"]
        found = [p["node_id"] for p in peers if p["online"] and p["name"].startswith("new-worker")]
        return any(node_id != before for node_id in found) or None

    await eventually(seen)
    with pytest.raises((WrongMachine, CmeshError)):
        await caller.delegate(
            "new-worker", "command:held", place, prompt="hold", if_offline="fail", new=True
        )
    assert starts(worker)[1:] == [held.task_id]


async def test_an_agent_that_asks_again_after_its_client_gave_up_gets_the_first_task(
    make_machine: MakeMachine, ground: Path
) -> None:
    caller, worker = await two(make_machine, ground, "twice")
    fields = {
        "peer": "twice-worker",
        "runner": "command:held",
        "profile": "full",
        "directory": str(worker.base / "app"),
        "prompt": "hold",
    }
    async with caller.mcp() as agent:
        given_up = asyncio.create_task(agent.call("delegate", **fields, wait_s=40))
        await eventually(lambda: starts_of(worker, 2))
        given_up.cancel()
        await asyncio.wait({given_up})
        (worker.base / "app" / "go").touch()
        first = starts(worker)[1]
        assert (await caller.ended(first)).state is TaskState.SUCCEEDED
        again = await agent.call("delegate", **fields, wait_s=40)
        assert (again.get("task_id"), again.get("duplicate_of")) == (first, first)
        assert again.get("state") == "succeeded"
        # Now it knows the end, so that the same words are a new wish.
        third = await agent.call("delegate", **fields, wait_s=40)
        assert third.get("task_id") != first
    assert starts(worker)[1:] == [first, third.get("task_id")]
