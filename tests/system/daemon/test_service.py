"""`cmesh up --replace`, a kill, and a new version, where something restarts the daemon.

A small service manager of ours stands for any that does what the unit of `cmesh service install`
has systemd do; systemd itself is in `tests/system/service`.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from typing_extensions import override

from cmesh.daemon.operations import StatusView
from cmesh.errors import CmeshError
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND, inbound
from tests.system.daemon.machine import END_LIMIT_S, READY_LIMIT_S, eventually
from tests.system.daemon.processes import daemons_of
from tests.system.daemon.versions import Installed, Version, here_version, install

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

SUPERVISOR = Path(__file__).with_name("supervisor.py")
# What systemd tells a service of itself, systemd.exec(5).
AS_SYSTEMD = ("/bin/sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
PACE_S = 0.1  # between two calls, so that the caller does not take the processor for itself
HELD = (
    'n=$(cat)\necho "$n" >> starts\nwhile [ ! -e "go-$n" ]; do sleep 0.05; done\necho "done $n"\n'
)


class Supervised(Installed):
    """A machine whose daemon a supervisor keeps.

    Attributes:
        how: `systemd`, or `service`: the supervisor cannot say that it is one, so the command
            line does.
    """

    def __init__(self, name: str, base: Path, testnet: Testnet, version: Version, how: str) -> None:
        super().__init__(name, base, testnet, version)
        self.how = how
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def supervisor(self) -> int:
        """The supervisor's process."""
        assert self._supervisor is not None
        return self._supervisor.pid

    @override
    async def up(self) -> StatusView:
        if self._supervisor is None:
            command = self.command("daemon")
            argv = [*AS_SYSTEMD, *command] if self.how == "systemd" else [*command, "--service"]
            with self.log.open("ab") as log:
                self._supervisor = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(SUPERVISOR), *argv],
                    cwd="/",
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    umask=0o077,
                )

        async def is_up() -> StatusView | None:
            with contextlib.suppress(CmeshError, OSError):
                status = await self.status()
                return status if status.phase == "up" else None
            return None

        return await eventually(is_up, READY_LIMIT_S)

    @override
    async def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self._supervisor.wait, END_LIMIT_S)
        await super().stop()

    def is_its_only_daemon(self, pid: int) -> None:
        """Hold that one daemon runs, and that it is the supervisor's."""
        assert daemons_of(self.state) == [pid]
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        [parent] = [line.split()[1] for line in status.splitlines() if line.startswith("PPid:")]
        assert int(parent) == self.supervisor


class Two:
    """`laptop` asks, `builder` works in `place`; both under a supervisor."""

    def __init__(self, laptop: Supervised, builder: Supervised, place: Path) -> None:
        self.laptop, self.builder, self.place = laptop, builder, place

    async def running(self, name: str) -> str:
        """Start a task that runs until `end`; return its id."""
        view = await self.laptop.delegate(
            self.builder.name, "command:held", self.place, prompt=name
        )

        async def is_running() -> bool | None:
            return (await self.laptop.task(view.task_id)).state is TaskState.RUNNING or None

        await eventually(is_running)
        return view.task_id

    async def ends_well(self, name: str, task_id: str) -> None:
        """End the task; it must have started once."""
        (self.place / f"go-{name}").touch()
        ended = await self.laptop.ended(task_id)
        assert (ended.state, ended.witness) == (TaskState.SUCCEEDED, "shim recorded exit 0")
        assert (self.place / "starts").read_text("utf-8").split().count(name) == 1


@pytest.fixture(scope="module")
async def two(ground: Path, testnet: Testnet) -> AsyncIterator[Two]:
    place = ground / "builder" / "app"
    version = here_version(ground)
    laptop = Supervised("laptop", ground, testnet, version, "service")
    builder = Supervised("builder", ground, testnet, version, "systemd")
    worker = "[worker]\nallow_root = true\nconcurrent = 4\n"
    held = f"[commands.held]\nargv = ['/bin/sh', '-c', '''{HELD}''']\n"
    rule = inbound(place, ["command:held"])
    async with AsyncExitStack() as stack:
        for machine, text in ((laptop, OUTBOUND), (builder, f"{worker}{held}{rule}")):
            stack.push_async_callback(machine.stop)
            await machine.configure(text)
        builder.directory("app")
        await asyncio.gather(laptop.up(), builder.up())
        (place / "go-first").touch()
        await laptop.delegate("builder", "command:held", place, prompt="first")
        await builder.trust(laptop)
        yield Two(laptop, builder, place)


async def test_a_replaced_daemon_is_started_by_its_supervisor_and_no_task_notices(
    two: Two,
) -> None:
    task = await two.running("stays")
    for machine in (two.builder, two.laptop):
        before = (await machine.status()).pid
        done = await machine.replace()
        assert done.returncode == 0, done.stdout + done.stderr + machine.log_text()
        after = (await machine.up()).pid
        assert after != before
        assert json.loads(done.stdout)["pid"] == after
        machine.is_its_only_daemon(after)
        assert not (machine.state / "replacing").exists()
    await two.ends_well("stays", task)


async def test_an_agent_s_call_in_the_gap_is_served_by_the_supervisor_s_daemon(two: Two) -> None:
    with (two.laptop.base / "agent").open("w", encoding="utf-8") as errors:
        async with two.laptop.agent(errors) as agent:
            assert not (await agent.call("list_tasks")).is_error
            replacing = asyncio.create_task(two.laptop.replace())
            while not replacing.done():
                answer = await agent.call("list_tasks")
                assert not answer.is_error or answer.text.startswith("daemon_restarted")
                await asyncio.sleep(PACE_S)
            assert (await replacing).returncode == 0
            assert not (await agent.call("list_tasks")).is_error
            await two.laptop.kill_now()
            assert not (await agent.call("list_tasks")).is_error
            two.laptop.is_its_only_daemon((await two.laptop.up()).pid)


async def test_another_installation_is_refused_and_one_changed_in_place_takes_over(
    two: Two, ground: Path
) -> None:
    before = await two.builder.status()
    other = install(ground, "0.8.1")
    refused = await two.builder.replace(other)
    assert "cmesh service install" in json.loads(refused.stdout)["error"]["hint"]
    two.builder.is_its_only_daemon(before.pid)
    task = await two.running("in-place")
    _point(two.builder.version, other)
    done = await two.builder.replace()
    assert done.returncode == 0, done.stdout + done.stderr
    after = await two.builder.up()
    assert (after.version, json.loads(done.stdout)["before"]) == ("0.8.1", before.version)
    two.builder.is_its_only_daemon(after.pid)
    await two.ends_well("in-place", task)


def _point(version: Version, other: Version) -> None:
    """Let an interpreter find what another one finds."""
    [mine] = Path(version.python).parents[1].glob("lib/python*/site-packages/tree.pth")
    [theirs] = Path(other.python).parents[1].glob("lib/python*/site-packages/tree.pth")
    incoming = mine.with_suffix(".new")
    incoming.write_text(theirs.read_text("utf-8"), "utf-8")
    incoming.replace(mine)
