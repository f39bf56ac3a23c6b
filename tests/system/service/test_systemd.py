"""The daemon under a real systemd of its user: nothing that a manager does costs a task."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from typing_extensions import override

from cmesh.daemon.answers import StatusView
from cmesh.daemon.setup_answers import SetupChangeView, SetupView
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.errors import CmeshError, PlanGone, ServiceFailed
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND, inbound
from tests.system.daemon.machine import READY_LIMIT_S, Machine, as_user, eventually, worker_user
from tests.system.daemon.terminal import at_terminal
from tests.system.service.systemd import hierarchies, systemctl, user_manager

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

REPLACE_LIMIT_S = 120.0
HELD = 'n=$(cat)\necho "$n" >> starts\nwhile [ ! -e "go-$n" ]; do sleep 0.05; done\necho done\n'


class Kept(Machine):
    """A machine whose user has a systemd; `runtime` is the runtime directory of both."""

    runtime: Path
    unit: str

    @override
    def environment(self) -> dict[str, str]:
        return super().environment() | {"XDG_RUNTIME_DIR": str(self.runtime)}

    @override
    async def stop(self) -> None:
        self.cli("down")

    def systemctl(self, *words: str, check: bool = True) -> str:
        return systemctl(self.runtime, self._user, *words, check=check).stdout

    def replace(self) -> "subprocess.CompletedProcess[str]":
        """Put a daemon in the place of the one that runs; it checks itself first, which takes long."""
        return subprocess.run(
            self.command("up", "--replace", "--json"),
            cwd="/", env=self.environment(), capture_output=True, text=True, check=False,
            timeout=REPLACE_LIMIT_S, **as_user(self._user),
        )  # fmt: skip

    def main_pid(self) -> int:
        return int(self.systemctl("show", self.unit, "--property=MainPID", "--value"))

    def in_groups_of_their_own(self) -> set[str]:
        """Return the names of the processes in groups below the unit's; the daemon is in none."""
        path = self.systemctl("show", self.unit, "--property=ControlGroup", "--value").strip()
        found: set[str] = set()
        for mount in hierarchies():
            for file in Path(f"{mount}{path}").glob("shim-*/**/cgroup.procs"):
                pids = file.read_text("ascii").split()
                assert str(self.main_pid()) not in pids
                for pid in pids:
                    with contextlib.suppress(OSError):  # it has just ended
                        found.add(Path(f"/proc/{pid}/comm").read_text("utf-8").strip())
        return found

    def is_active(self) -> str:
        return self.systemctl("is-active", self.unit, check=False).strip()

    async def again(self, before: int) -> StatusView:
        """Wait for another daemon than `before`, on the tailnet."""

        async def is_another() -> StatusView | None:
            try:
                status = await self.status()
            except (CmeshError, OSError):
                return None
            return status if status.phase == "up" and status.pid != before else None

        return await eventually(is_another, READY_LIMIT_S)


class Two:
    """`laptop` asks, `builder` works in `place`; the builder's daemon is systemd's."""

    def __init__(self, laptop: Machine, builder: Kept, place: Path, before: StatusView) -> None:
        self.laptop, self.builder, self.place = laptop, builder, place
        self.before = before

    async def running(self, name: str) -> str:
        view = await self.laptop.delegate("builder", "command:held", self.place, prompt=name)

        async def is_running() -> bool | None:
            return (await self.laptop.task(view.task_id)).state is TaskState.RUNNING or None

        await eventually(is_running)
        return view.task_id

    async def ends_well(self, name: str, task_id: str) -> None:
        (self.place / f"go-{name}").touch()
        ended = await self.laptop.ended(task_id)
        assert (ended.state, ended.witness) == (TaskState.SUCCEEDED, "shim recorded exit 0")
        assert (self.place / "starts").read_text("utf-8").split().count(name) == 1


@pytest.fixture(scope="module")
async def two(ground: Path, testnet: Testnet) -> AsyncIterator[Two]:
    user = worker_user()
    place = ground / "builder" / "app"
    held = f"[commands.held]\nargv = ['/bin/sh', '-c', '''{HELD}''']\n"
    rule = inbound(place, ["command:held"])
    laptop, builder = (
        Machine("laptop", ground, testnet, user),
        Kept("builder", ground, testnet, user),
    )
    async with AsyncExitStack() as stack:
        builder.base.mkdir()
        builder.runtime = stack.enter_context(user_manager(builder.base, user))
        for machine, text in ((laptop, OUTBOUND), (builder, held + rule)):
            stack.push_async_callback(machine.stop)
            await machine.configure(text)
        builder.directory("app")
        done = builder.cli("up", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        await laptop.up()
        (place / "go-first").touch()
        await laptop.delegate("builder", "command:held", place, prompt="first")
        await builder.trust(laptop)
        yield Two(laptop, builder, place, await builder.again(0))


async def test_installed_over_a_running_daemon_it_keeps_task_and_sandbox(two: Two) -> None:
    builder, task = two.builder, await two.running("installed")
    plan = json.loads(builder.cli("service", "install", "--dry-run", "--json").stdout)
    assert any("systemctl --user enable" in step["step"] for step in plan["steps"])
    assert builder.cli("service", "status").returncode == 86
    done = builder.cli("service", "install", "--json")
    assert done.returncode == 0, done.stdout + done.stderr + builder.log_text()
    answer = json.loads(done.stdout)
    builder.unit = f"{answer['name']}.service"
    status = await builder.again(two.before.pid)
    assert status.pid == builder.main_pid() == answer["pid"]
    assert (status.enforcement, status.enforcement_note, status.containment) == (
        two.before.enforcement, two.before.enforcement_note, two.before.containment,
    )  # fmt: skip
    again = builder.cli("service", "install", "--json")
    assert json.loads(again.stdout)["pid"] == status.pid
    shown = json.loads(builder.cli("service", "status", "--json").stdout)
    assert (shown["current"], shown["enabled"], shown["active"]) == (True, True, True)
    record = json.loads((builder.base / ".local/share/cmesh/installed.json").read_text("utf-8"))
    assert [one["path"] for one in record["entries"]] == [answer["file"]]
    await two.ends_well("installed", task)


async def test_restarted_killed_and_replaced_no_task_notices(two: Two) -> None:
    builder, task = two.builder, await two.running("through")
    assert "sh" in builder.in_groups_of_their_own()
    before = builder.main_pid()
    builder.systemctl("restart", builder.unit)
    restarted = (await builder.again(before)).pid
    os.kill(restarted, signal.SIGKILL)
    killed = (await builder.again(restarted)).pid
    done = await asyncio.to_thread(builder.replace)
    assert done.returncode == 0, done.stdout + done.stderr + builder.log_text()
    replaced = (await builder.again(killed)).pid
    assert replaced == builder.main_pid()
    await two.ends_well("through", task)


async def test_down_holds_until_up_which_goes_through_the_manager(two: Two) -> None:
    builder, task = two.builder, await two.running("down")
    assert builder.cli("down").returncode == 0
    builder.systemctl("start", builder.unit)
    assert builder.is_active() == "inactive"
    assert builder.cli("tasks", "--json").returncode == 81
    done = await asyncio.to_thread(builder.cli, "up", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (await builder.again(0)).pid == builder.main_pid()
    found = {
        one["check"]: one for one in json.loads(builder.cli("doctor", "--json").stdout)["findings"]
    }
    assert found["service"]["level"] == "ok", found["service"]
    assert "lingering is off" in found["linger"]["what"]
    assert "ready" in builder.cli("service", "logs", "-n", "400").stdout
    await two.ends_well("down", task)


async def test_what_keeps_it_from_starting_is_its_own_word(two: Two) -> None:
    builder = two.builder
    builder.cli("down")
    key = builder.state / "key"
    key.chmod(0o644)
    failed = await asyncio.to_thread(builder.cli, "up", "--json")
    key.chmod(0o600)
    assert json.loads(failed.stdout)["error"]["code"] == "unsafe_permissions"
    assert (await asyncio.to_thread(builder.cli, "up", "--json")).returncode == 0


async def test_removed_it_leaves_nothing_but_the_running_task(two: Two) -> None:
    builder, task = two.builder, await two.running("removed")
    file = Path(json.loads(builder.cli("service", "status", "--json").stdout)["file"])
    done = builder.cli("service", "remove", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"removed": str(file)})
    assert not file.exists()
    assert not (builder.state / "service.json").exists()
    assert not list(file.parent.rglob("*.service"))
    record = json.loads((builder.base / ".local/share/cmesh/installed.json").read_text("utf-8"))
    assert record["entries"] == []
    assert builder.cli("service", "remove").returncode == 86
    assert (await asyncio.to_thread(builder.cli, "up", "--json")).returncode == 0
    await two.ends_well("removed", task)


async def plans(builder: Kept, *, undo: bool = False) -> SetupChangeView:
    if undo:
        answer = await builder.call("setup_undo", SetupUndoArguments(step="service"))
    else:
        answer = await builder.call("setup_step", SetupStepArguments(step="service"))
    return SetupChangeView.model_validate(answer)


async def says(builder: Kept, word: str) -> tuple[int, str]:
    async with at_terminal(builder, "confirm") as shows:
        await shows.screen_until("apply it?")
        shows.type(word)
        return await shows.end()


async def test_the_wizard_has_systemd_keep_it_by_a_persons_word_and_takes_it_back(
    two: Two,
) -> None:
    builder, task = two.builder, await two.running("wizard")

    async def stands() -> tuple[bool, bool]:
        view = SetupView.model_validate(await builder.call("setup_check", SetupCheckArguments()))
        [step] = [step for step in view.steps if step.name == "service"]
        return step.done, step.offered

    before = (await builder.again(0)).pid
    planned = (await plans(builder)).plan
    assert (planned.state, planned.unit is not None) == ("waiting", True)
    assert planned.unit is not None
    file = Path(planned.unit.file)
    status, screen = await says(builder, "n")
    assert (status, "enable cmesh-" in screen, "+ExecStart=" in screen) == (1, True, True)
    assert await stands() == (False, False)  # who said no is not asked by itself again

    # What came into its place after it was shown is not overwritten, nor is it planned over.
    await plans(builder)
    file.write_text("[Service]\n", "utf-8")
    assert (await says(builder, "y"))[0] == PlanGone.exit_status
    assert file.read_text("utf-8") == "[Service]\n"
    with pytest.raises(ServiceFailed, match="not what cmesh would write"):
        await plans(builder)
    file.unlink()

    await plans(builder)
    status, screen = await says(builder, "y")
    assert (status, "applied" in screen) == (0, True), screen + builder.log_text()
    assert file.read_text("utf-8") == planned.unit.text
    assert (await builder.again(before)).pid == builder.main_pid()
    assert await stands() == (True, False)
    assert (await plans(builder)).plan.state == "nothing"

    assert (await plans(builder, undo=True)).plan.state == "waiting"
    assert (await says(builder, "y"))[0] == 0
    assert not file.exists()
    assert (await asyncio.to_thread(builder.cli, "up", "--json")).returncode == 0
    assert (await stands())[0] is False
    with pytest.raises(PlanGone, match="nothing to undo"):
        await plans(builder, undo=True)
    await two.ends_well("wizard", task)
