"""Disks that refuse: full, read-only, or with files cut; and daemons that are killed on top of it.

Needs root, for small and read-only file systems; the read-only ones are in a mount namespace
of the daemon's own.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from cmesh.errors import StoreDamaged
from cmesh.node.testnet import Testnet
from tests.chaos.judge import read_ledger
from tests.chaos.machine import ChaosMachine
from tests.chaos.world import World, orders, world
from tests.system.daemon.machine import eventually, worker_user
from tests.system.daemon.test_disk_full import FOR_NOTHING, free, leave, small_disk

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.getuid() != 0, reason="a small disk needs root to be mounted"),
]

TASKS = 8
REFUSED_LIMIT_S = 30.0
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def as_worker() -> tuple[str, ...]:
    user = worker_user()
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


def on_read_only(machine: ChaosMachine) -> tuple[str, ...]:
    """Return what starts a daemon where its state directory is read-only."""
    return ("unshare", "--mount", "sh", "-c", READ_ONLY, str(machine.state), *as_worker())


@contextlib.contextmanager
def read_only(machine: ChaosMachine) -> Generator[None]:
    """Let nothing be made, renamed or removed in a machine's state directory.

    By permissions: no mount with files open for writing can be made read-only. What is open
    already can still be written, as on a disk of which only the directories are damaged.
    """
    places = [path for path in (machine.state, *machine.state.rglob("*")) if path.is_dir()]
    modes = {path: path.stat().st_mode & 0o777 for path in places if not path.is_symlink()}
    for path in modes:
        path.chmod(0o500)
    try:
        yield
    finally:
        for path, mode in modes.items():
            with contextlib.suppress(FileNotFoundError):
                path.chmod(mode)


@pytest.fixture
async def made(ground: Path) -> AsyncIterator[World]:
    base = ground / f"disk{len(list(ground.iterdir()))}"
    # A tailnet of its own: every world's machines bear the same names.
    async with Testnet() as testnet, world(base, testnet, entries=((), as_worker())) as one:
        yield one


def ask(made: World, batch: str, seed: int) -> None:
    """Ask for a batch of tasks."""
    made.batch = batch
    wanted = orders(batch, random.Random(seed), TASKS, 2)
    made.asking = [asyncio.create_task(made.ask(order)) for order in wanted]


async def judged(made: World) -> None:
    """Wait until all has settled; the judge must find nothing."""
    await asyncio.gather(*made.asking)
    assert await made.settle()
    assert (await made.judged()).faults == []


async def refused(machine: ChaosMachine) -> str:
    """Start a daemon that must not start; return what it logged."""
    before = machine.log.stat().st_size
    machine.launch()
    status = await machine.died(REFUSED_LIMIT_S)
    assert status, "it started, or did not say why not"
    said = machine.log.read_bytes()[before:].decode()
    assert "Traceback" not in said
    return said


async def test_a_daemon_does_not_start_on_a_read_only_disk_and_loses_nothing(made: World) -> None:
    ask(made, "readonly", 1)
    await asyncio.gather(*made.asking)
    made.worker.kill()
    made.worker.enter = on_read_only(made.worker)
    try:
        said = await refused(made.worker)
    finally:
        made.worker.enter = as_worker()
    assert "Read-only file system" in said
    await made.worker.up()
    await judged(made)


async def test_a_state_directory_that_turns_read_only_while_tasks_run_loses_nothing(
    made: World,
) -> None:
    made.batch = "turns"
    for seconds in (2, 3, 4):
        made.order(seconds=seconds)

    async def started() -> bool | None:
        noted = read_ledger(made.ledger.read_text("utf-8"))
        return sum(entry.key.startswith("turns-") for entry in noted) == 3 or None

    async def finished() -> bool | None:
        noted = read_ledger(made.ledger.read_text("utf-8"))
        ended = [entry for entry in noted if entry.what == "finish"]
        return sum(entry.key.startswith("turns-") for entry in ended) == 3 or None

    await eventually(started)
    with read_only(made.worker):
        await eventually(finished)
        made.worker.kill()
        made.worker.launch()
        # It may say why it cannot start, or come up and wait for the shims.
        await made.worker.died(5)
    if made.worker.alive:
        made.worker.kill()
    await made.up()
    await judged(made)
    assert [asked.told[-1] for asked in made.of_batch()] == ["succeeded"] * 3
    assert "Traceback" not in made.worker.log_text()


async def test_a_daemon_with_acknowledged_rows_cut_off_refuses_until_they_are_back(
    made: World,
) -> None:
    ask(made, "cut", 2)
    await asyncio.gather(*made.asking)
    made.worker.kill()
    journal = max((made.worker.state / "store").glob("journal-*"))
    whole = journal.read_bytes()
    used = len(whole.rstrip(b"\0"))
    with journal.open("r+b") as file:
        file.seek(used // 2)
        file.write(bytes(used - used // 2))
    assert StoreDamaged.code in await refused(made.worker)
    with journal.open("r+b") as file:
        file.write(whole)
    await made.worker.up()
    await judged(made)


async def test_a_torn_tail_that_nobody_was_told_of_is_dropped(made: World) -> None:
    ask(made, "torn", 3)
    await asyncio.gather(*made.asking)
    made.worker.kill()
    journal = max((made.worker.state / "store").glob("journal-*"))
    used = len(journal.read_bytes().rstrip(b"\0"))
    with journal.open("r+b") as file:
        file.seek(used)
        file.write(b"cmj1" + os.urandom(60))  # a frame of which only the beginning came
    await made.worker.up()
    await judged(made)


async def test_a_full_disk_and_a_kill_lose_nothing(ground: Path) -> None:
    base = ground / "full"
    (base / "worker").mkdir(parents=True)
    async with Testnet() as testnet:
        place = ChaosMachine("worker", base, testnet, worker_user())
        with small_disk(place, worker_user()):
            await _with_a_full_disk(base, testnet)


async def _with_a_full_disk(base: Path, testnet: Testnet) -> None:
    async with world(base, testnet) as made:
        ask(made, "full", 4)

        async def started() -> bool | None:
            return bool(made.running()) or None

        await eventually(started)
        leave(made.worker, FOR_NOTHING)
        with contextlib.suppress(OSError):  # who runs may take the rest first
            leave(made.worker, 0)
        try:
            made.worker.kill()
            made.worker.launch()
            # With no room at all it may come up or say why it cannot.
            await made.worker.died(5)
        finally:
            free(made.worker)
        if made.worker.alive:
            made.worker.kill()
        await made.up()
        await judged(made)
        with contextlib.suppress(FileNotFoundError):
            assert "Traceback" not in made.worker.log.read_text("utf-8")
