"""`cmesh uninstall` on a machine that works for others: nothing ends without a word."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncGenerator

import pytest

from cmesh.daemon.arguments import NoArguments
from cmesh.model import TaskState
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import END_LIMIT_S, ROOT, Machine, as_user, eventually, here
from tests.system.daemon.terminal import at_terminal

EVERYTHING = ("--yes-config", "--yes-logins", "--yes-identity", "--yes-store")

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(120)]


@contextlib.asynccontextmanager
async def dashboard(machine: Machine) -> AsyncGenerator["subprocess.Popen[str]"]:
    """Serve a machine's dashboard, to no browser."""
    with subprocess.Popen(
        machine.command("dashboard", "--no-open", "--json"),
        cwd=ROOT,
        env=machine.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        **as_user(machine.user),
    ) as process:
        assert process.stdout is not None
        try:
            assert await asyncio.to_thread(process.stdout.readline)
            yield process
        finally:
            process.kill()


async def test_tasks_are_not_ended_without_a_word_and_the_node_logs_out(
    make_machine: MakeMachine,
) -> None:
    laptop = await make_machine("laptop", OUTBOUND, user=here())
    builder = await make_machine("builder")
    place = builder.directory("app")
    await builder.configure(
        command("wait", "/bin/sh", "-c", "sleep 300") + inbound(place, ["command:wait"])
    )
    await asyncio.gather(builder.up(), laptop.up())
    task = await laptop.delegate("builder", "command:wait", place)
    await builder.trust(laptop)

    async def runs() -> bool | None:
        return (await builder.status()).running == 1 or None

    await eventually(runs)
    refused = await asyncio.to_thread(builder.cli, "uninstall", *EVERYTHING, "--json")
    assert refused.returncode == 43
    assert "1 task of others run" in refused.stdout
    assert (await builder.status()).running == 1

    copy = builder.base / "store.tar.gz"
    words = (*EVERYTHING, "--end-tasks", "--backup", str(copy), "--json")
    async with at_terminal(builder, "watch") as watch, dashboard(builder) as page:
        await watch.until("laptop")
        planned = await asyncio.to_thread(builder.cli, "uninstall", "--dry-run")
        done = await asyncio.to_thread(builder.cli, "uninstall", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        for screen in (f"`cmesh dashboard` (process {page.pid})", "`cmesh watch` (process "):
            assert f"{screen}" in planned.stderr
            assert f"ended {screen}" in done.stderr
        assert await asyncio.to_thread(page.wait, END_LIMIT_S) == 0
        await watch.end()
    told = json.loads(done.stdout)
    assert told["removed"] == ["config", "identity", "store"]
    assert told["notes"] == []
    assert not builder.state.exists()
    assert not builder.config.exists()
    assert copy.stat().st_size
    assert (await laptop.ended(task.task_id)).state is TaskState.CANCELLED
    # Logged out, the tailnet has it no more.
    peers = await laptop.call("list_peers", NoArguments())
    assert [peer["name"] for peer in peers["peers"] if peer["online"]] == []
