"""A full disk refuses new work with a clear error and corrupts nothing; room brings it back.

The state directories are small file systems of their own, which only root can mount.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import pwd
import subprocess
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.arguments import ResultArguments
from cmesh.errors import DiskFull
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from cmesh.store.store import Store
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import Machine, eventually, here, worker_user

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.getuid() != 0, reason="a small disk needs root to be mounted"),
]

MEBI = 1024 * 1024
DISK_BYTES = 320 * MEBI
FOR_WHAT_RUNS = 100 * MEBI  # below the floor for new work, above the one for what was taken
FOR_NOTHING = 8 * MEBI
OUTPUT_BYTES = 300_000  # too large to come inside the result

# Both print until the file `stop` is there; the second then prints a lot.
TICK = "while [ ! -e stop ]; do echo tick; sleep 0.5; done; rm stop"
LONG = f"{TICK}; yes | head -c {OUTPUT_BYTES}"
Pair = tuple[Machine, Machine]


@contextlib.contextmanager
def small_disk(machine: Machine, user: pwd.struct_passwd) -> Generator[None]:
    """Give a machine a state directory on a disk of its own."""
    machine.state.mkdir(parents=True)
    options = f"size={DISK_BYTES},mode=700,uid={user.pw_uid},gid={user.pw_gid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "cmesh-test", str(machine.state)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this root may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(machine.state)], check=True)


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[Pair]:
    """Return a laptop and a builder, each on a small disk; their stores must be whole at last."""
    place = ground / "builder" / "app"
    text = command("tick", "/bin/sh", "-c", TICK) + command("long", "/bin/sh", "-c", LONG)
    text += command("true", "/bin/true")
    rule = inbound(place, ["command:tick", "command:long", "command:true"])
    laptop = Machine("laptop", ground, testnet, here())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, user in ((laptop, here()), (builder, worker_user())):
            stack.enter_context(small_disk(machine, user))
            stack.push_async_callback(machine.stop)
        await laptop.configure(OUTBOUND)
        await builder.configure(text + rule)
        builder.directory("app")
        await builder.up()
        await laptop.up()
        first = await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        await laptop.ended(first.task_id)
        yield laptop, builder
        for machine in (laptop, builder):
            assert "Traceback" not in machine.log_text()
            await machine.stop()
            assert await is_whole(machine)


async def is_whole(machine: Machine) -> bool:
    """Open a stopped machine's store and check every row of its log."""
    for path in (machine.state, *machine.state.rglob("*")):
        os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)
    store = await Store.open(machine.state / "store", clock=SystemClock(), node=machine.name)
    try:
        found = await store.verify()
    finally:
        await store.close()
    return found.head_ok and found.bad_seq is None


def leave(machine: Machine, free_bytes: int) -> None:
    """Fill a machine's disk until so much is left."""
    disk = os.statvfs(machine.state)
    taken = disk.f_bavail * disk.f_frsize - free_bytes
    with (machine.state / f"ballast-{free_bytes}").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, taken)


def free(machine: Machine) -> None:
    for ballast in machine.state.glob("ballast-*"):
        ballast.unlink()


async def ticking(laptop: Machine, runner: str, place: Path) -> str:
    """Start a task and return its id once it has printed something."""
    task_id = (await laptop.delegate("builder", runner, place)).task_id

    async def printed() -> bool | None:
        return any(event.text == "tick" for event in (await laptop.task(task_id)).events) or None

    await eventually(printed)
    return task_id


async def is_over(builder: Machine, task_id: str) -> None:
    """Wait until the shim has written how the task ended, whatever the daemon can do with it."""

    async def written() -> bool | None:
        return (builder.state / "tasks" / task_id / "result.json").exists() or None

    await eventually(written)


async def test_a_worker_with_a_full_disk_takes_nothing_and_loses_nothing(pair: Pair) -> None:
    laptop, builder = pair
    place = builder.base / "app"
    running = await ticking(laptop, "command:tick", place)
    try:
        leave(builder, FOR_WHAT_RUNS)
        words = ("-C", str(place), "--runner", "command:true", "--profile", "full", "--no-wait")
        done = await asyncio.to_thread(laptop.cli, "delegate", "builder", "later", *words)
        later = done.stdout.strip()
        await eventually(lambda: is_refused(laptop, later))
        shown = (await asyncio.to_thread(laptop.cli, "show", later)).stdout
        assert "[disk_full]" in shown
        assert "MiB are free where the store is" in shown
        async with laptop.mcp() as agent:
            answer = await agent.call("get_task", task_id=later, wait_s=0)
        assert (answer.get("state"), answer.get("code")) == ("submitting", "disk_full")
        assert answer.get("next").startswith("get_task")

        # What was taken goes on, and is heard of.
        seen = (await laptop.task(running)).last_event
        await eventually(lambda: after(laptop, running, seen))
        leave(builder, FOR_NOTHING)
        leave(builder, 0)
        (place / "stop").touch()
        await is_over(builder, running)
        assert (await builder.status()).phase == "up"
        assert (await laptop.task(running)).state is TaskState.RUNNING
    finally:
        free(builder)
    for task_id in (running, later):
        ended = await laptop.ended(task_id)
        assert ended.state is TaskState.SUCCEEDED
        rows = f"SELECT count(*) FROM tasks WHERE task_id = '{task_id}'"
        assert await builder.sql(rows) == [[1]]


async def is_refused(machine: Machine, task_id: str) -> bool | None:
    return (await machine.task(task_id)).code == "disk_full" or None


async def after(machine: Machine, task_id: str, seen: int) -> bool | None:
    return (await machine.task(task_id)).last_event > seen or None


async def test_a_caller_with_a_full_disk_is_refused_and_gets_its_result_later(pair: Pair) -> None:
    laptop, builder = pair
    place = builder.base / "app"
    running = await ticking(laptop, "command:long", place)
    before = await laptop.sql("SELECT count(*) FROM tasks")
    try:
        leave(laptop, FOR_WHAT_RUNS)
        words = ("-C", str(place), "--runner", "command:true", "--profile", "full", "--json")
        done = await asyncio.to_thread(laptop.cli, "delegate", "builder", "never", *words)
        assert done.returncode == DiskFull.exit_status
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "disk_full"
        assert "free space" in error["hint"]
        async with laptop.mcp() as agent:
            answer = await agent.call(
                "delegate",
                peer="builder",
                prompt="never",
                directory=str(place),
                runner="command:true",
                profile="full",
            )
        assert answer.is_error
        assert answer.text.startswith("disk_full")
        assert "free space" in answer.text

        leave(laptop, FOR_NOTHING)
        leave(laptop, 0)
        (place / "stop").touch()
        there = await builder.ended(running)
        assert there.state is TaskState.SUCCEEDED
        assert (await laptop.task(running)).state is TaskState.RUNNING
        assert (await laptop.status()).phase == "up"
    finally:
        free(laptop)
    assert (await laptop.ended(running)).state is TaskState.SUCCEEDED
    arguments = ResultArguments(task_id=running, part="output", limit=1)
    result = await laptop.call("get_result", arguments)
    path = builder.state / "tasks" / running / "stdout"
    output = path.read_bytes() if path.exists() else None
    assert result["total"] > OUTPUT_BYTES
    assert output is None or result["sha256"] == hashlib.sha256(output).hexdigest()
    assert await laptop.sql("SELECT count(*) FROM tasks") == before
    view = await laptop.delegate("builder", "command:true", place, wait_s=30)
    assert view.state is TaskState.SUCCEEDED
