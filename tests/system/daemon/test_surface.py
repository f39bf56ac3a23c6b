"""What a fresh user meets: a dead control server, rules that cannot work, a key taken back."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cmesh.daemon.answers import StatusView, UntrustView
from cmesh.daemon.arguments import NoArguments, UntrustArguments
from cmesh.errors import CmeshError
from cmesh.model import TaskState
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

NOWHERE = "http://127.0.0.1:9"


async def test_a_control_server_that_is_not_there_is_named_with_its_error_and_the_log(
    make_machine: MakeMachine,
):
    machine = await make_machine("lost")
    await machine.configure(control_url=NOWHERE)
    await machine.start()

    async def told() -> StatusView | None:
        view = await machine.status()
        return view if view.problems[0].code == "control_unreachable" else None

    [problem] = (await eventually(told)).problems
    assert NOWHERE in problem.what
    assert "connection refused" in problem.what
    assert str(machine.state / "node.log") in problem.next
    with pytest.raises(CmeshError) as caught:
        await machine.call("list_peers", NoArguments())
    assert caught.value.code == "control_unreachable"
    done = machine.cli("login")
    assert (done.returncode, done.stdout) == (28, "")
    assert NOWHERE in done.stderr
    shown = machine.cli("status")
    assert "not on the tailnet yet" in shown.stdout
    assert machine.cli("up").returncode == 28


async def test_status_names_what_the_first_task_would_run_into(
    make_machine: MakeMachine, ground: Path
):
    text = command("disk", "/bin/df") + command("gone", "/no/such/program")
    text += f'[runners.claude]\nprogram = "/bin/true"\nkey_file = "{ground}/no.key"\n'
    text += '[runners.codex]\nprogram = "/bin/true"\nkey_file = "codex.key"\n'
    rule = inbound(Path("/no/such/place"), ["command:dsk", "command:gone", "claude"])
    machine = await make_machine("hopeful", text + rule)
    key_file = machine.base / "config" / "codex.key"
    key_file.write_text("sk-test-0000", "utf-8")
    key_file.chmod(0o600)
    view = await machine.up()
    said = {(problem.code, problem.what): problem.next for problem in view.problems}
    words = "\n".join(f"{what} {step}" for (_code, what), step in said.items())
    assert "the runner `command:dsk`, which is not here did you mean `command:disk`" in words
    assert "program `/no/such/program` is not on this machine" in words
    assert f"key file `{ground}/no.key` cannot be read" in words
    assert "; only 0.169.0 to below 0.170 were tried with a hostile directory" in words
    assert "names `/no/such/place`, which is no directory here" in words
    assert "root_refused" not in {code for code, _what in said}


async def test_a_node_without_trouble_has_no_problems(pair: tuple[Machine, Machine]):
    for machine in pair:
        assert (await machine.status()).problems == []


@pytest.mark.parametrize("on_revoke", ["end", "stay"])
async def test_a_key_that_is_taken_back_ends_the_link_and_what_on_revoke_says(
    make_machine: MakeMachine, ground: Path, on_revoke: str
):
    place = ground / f"worker-{on_revoke}" / "app"
    rule = inbound(place, ["command:sleep"], f'on_revoke = "{on_revoke}"')
    worker = await make_machine(f"worker-{on_revoke}", command("sleep", "/bin/sleep", "60") + rule)
    asker = await make_machine(f"asker-{on_revoke}", OUTBOUND)
    worker.directory("app")
    await worker.up()
    await asker.up()
    task = await asker.delegate(worker.name, "command:sleep", place)
    await worker.trust(asker)

    async def runs() -> bool | None:
        return (await worker.task(task.task_id)).state is TaskState.RUNNING or None

    async def told() -> bool | None:
        view = await asker.task(task.task_id)
        return view.code == "peer_untrusted" or None

    await eventually(_known(worker, task.task_id))
    await eventually(runs)
    answer = UntrustView.model_validate(
        await worker.call("untrust_peer", UntrustArguments(peer=asker.name))
    )
    assert answer.ended == ([task.task_id] if on_revoke == "end" else [])
    await eventually(told)
    rows = await worker.sql("SELECT trusted, decided_by FROM peers")
    assert rows == [[False, "owner"]]
    if on_revoke == "end":
        ended = await worker.ended(task.task_id)
        assert (ended.state, ended.code) == (TaskState.CANCELLED, "peer_untrusted")
    else:
        assert (await worker.task(task.task_id)).state is TaskState.RUNNING
    view = json.loads(asker.cli("show", task.task_id, "--json").stdout)
    assert view["known_at"] is not None
    assert "last heard from" in asker.cli("show", task.task_id).stdout
    await worker.stop()
    await worker.up()
    knocking = await worker.call("list_peers", NoArguments())
    assert knocking["peers"][0]["trust"] != "trusted"


def _known(machine: Machine, task_id: str) -> Callable[[], Awaitable[bool | None]]:
    async def known() -> bool | None:
        try:
            await machine.task(task_id)
        except CmeshError:
            return None
        return True

    return known
