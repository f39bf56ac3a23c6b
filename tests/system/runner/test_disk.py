"""A task that writes without end, under a real shim: it is ended, and the disk has its room again."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.model import Profile, TaskId, TaskState
from cmesh.policy.profiles import BUILT_IN, NamedProfile, ProfileLimits
from cmesh.runner.copies import read_changed
from cmesh.runner.evidence import Exit
from cmesh.runner.launch import Launch
from cmesh.runner.reader import ended
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.copying import launch_of
from tests.system.runner.support import Worker, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MIB = 1024**2
MOST_MIB = 24
FILL = "i=0; while :; do i=$((i+1)); head -c 1000000 /dev/urandom >{}/f$i; done"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    (place / "large").write_bytes(os.urandom(2 * MOST_MIB * MIB))
    return place


def launch(worker: Worker, place: Path, found: Enforcement, script: str) -> tuple[Launch, TaskId]:
    """Return a task of `edit` that may take `MOST_MIB`."""
    task_id = new_id()
    limits = BUILT_IN[Profile.EDIT].limits
    assert isinstance(limits, ProfileLimits)
    limits = replace(limits, disk_mib=MOST_MIB)
    own = NamedProfile(name="own", base=Profile.EDIT, limits=limits)
    return launch_of(worker, task_id, place, found, script, own), task_id


async def run(worker: Worker, made: Launch, task_id: TaskId) -> Exit:
    worker.supervisor.prepare(task_id, made)
    await worker.supervisor.spawn(task_id)
    return await worker.result(task_id)


@pytest.mark.parametrize("where", ["$HOME", "$TMPDIR", "/tmp", "."])
async def test_a_task_that_fills_the_disk_is_ended_with_the_limit_and_what_it_took(
    worker: Worker, place: Path, found: Enforcement, where: str
) -> None:
    made, task = launch(worker, place, found, f"trap '' TERM; {FILL.format(where)}")
    exit_ = await run(worker, made, task)
    assert (exit_.verdict, exit_.exit_code, exit_.processes_left) == ("disk_limit", -9, 0)
    state, reason, code = ended(exit_)
    assert (state, code) == (TaskState.FAILED, "disk_limit")
    assert reason.startswith("it took ")
    assert f" MiB of disk and may take {MOST_MIB} MiB, shim recorded signal 9" in reason
    assert exit_.compared == "yes"
    directory = worker.supervisor.directory(task)
    changed = read_changed(directory)
    assert changed is not None
    assert (changed.files > 0) == (where == ".")
    worker.supervisor.discard(task)
    await worker.eventually(lambda: not any(worker.supervisor.tasks_dir.glob("*/copy")))


async def test_a_task_that_rests_below_the_limit_ends_by_itself(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    script = f"head -c {(MOST_MIB - 2) * MIB} /dev/urandom >$HOME/own; rm large; echo done"
    made, task = launch(worker, place, found, script)
    exit_ = await run(worker, made, task)
    assert (exit_.verdict, exit_.exit_code, exit_.compared) == ("exited", 0, "yes")


async def test_where_the_disk_has_no_room_who_took_it_is_ended_and_nobody_else(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    script = "exec 3>$TMPDIR/x; rm $TMPDIR/x; head -c 80000000 /dev/zero >&3; echo ready; sleep 300"
    greedy, task = launch(worker, place, found, script)
    modest, other = launch(worker, place, found, "echo ready; sleep 300")
    assert greedy.disk is not None
    assert modest.disk is not None
    full, also = (
        replace(one, floor_bytes=1 << 60, most_bytes=1 << 60) for one in (greedy.disk, modest.disk)
    )
    worker.supervisor.prepare(other, replace(modest, disk=also))
    await worker.supervisor.spawn(other)
    await worker.printed(other, b"ready")
    exit_ = await run(worker, replace(greedy, disk=full), task)
    assert exit_.verdict == "disk_limit"
    assert "that it must keep, and the task took 76 MiB" in exit_.error
    assert worker.processes(other)
    worker.supervisor.end(other, "cancelled")
    assert (await worker.result(other)).verdict == "cancelled"
