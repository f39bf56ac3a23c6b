"""The start protocol: at most one agent a task, whoever is killed and whenever."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cmesh.model import TaskId
from tests.system.runner.support import PYTHON, SHIM, WAIT_LIMIT_S, Worker, alive, python

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MARK = "import os, sys; open(sys.argv[1] + '/' + str(os.getpid()), 'w').close()"


def shims(count: int) -> list[subprocess.Popen[bytes]]:
    argv = [PYTHON, "-I", "-S", SHIM]
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(argv, stdin=pipe, stdout=pipe, env={}, start_new_session=True)
        for _ in range(count)
    ]


def hand(process: subprocess.Popen[bytes], directory: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"directory": str(directory)}).encode() + b"\n")
    process.stdin.close()


def wait_all(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for the end of each, and of every idle shim and agent that holds its output."""
    codes: list[int] = []
    for process in processes:
        assert process.stdout is not None
        process.stdout.read()
        process.stdout.close()
        codes.append(process.wait(WAIT_LIMIT_S))
    return codes


@pytest.mark.parametrize("attempt", range(5))
async def test_of_shims_that_race_for_one_claim_exactly_one_starts(
    worker: Worker, tmp_path: Path, attempt: int
) -> None:
    starts = tmp_path / f"starts-{attempt}"
    starts.mkdir()
    task_id = worker.prepare((*python(MARK), str(starts)))
    racing = shims(4)
    for process in racing:
        assert process.stdout is not None
        process.stdout.read(1)  # warm: now all start at once
    for process in racing:
        hand(process, worker.supervisor.directory(task_id))
    await asyncio.to_thread(wait_all, racing)
    await worker.eventually(lambda: worker.supervisor.look(task_id).result)
    assert len(list(starts.iterdir())) == 1
    left = {entry.name for entry in worker.supervisor.directory(task_id).iterdir()}
    assert not {name for name in left if name.startswith(".claim")}


async def test_spawning_twice_starts_once(worker: Worker, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    task_id = worker.prepare((*python(MARK), str(starts)))
    await worker.supervisor.spawn(task_id)
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.result and not look.child_alive)
    assert len(list(starts.iterdir())) == 1


async def test_a_burnt_claim_prevents_the_start(worker: Worker, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    task_id = worker.prepare((*python(MARK), str(starts)))
    assert worker.supervisor.burn(task_id)
    assert worker.supervisor.burn(task_id)
    await worker.supervisor.spawn(task_id)
    look = await worker.until(task_id, lambda look: not look.child_alive)
    assert (look.claim, look.result) == ("burnt", False)
    assert list(starts.iterdir()) == []


async def test_a_claim_of_a_shim_cannot_be_burnt(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/true",))
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    assert not worker.supervisor.burn(task_id)
    assert worker.supervisor.look(task_id).claim == "shim"


async def test_burning_makes_the_directory_that_is_not_there_yet(worker: Worker) -> None:
    task_id = TaskId("0198c0de-1111-7aaa-8bbb-0123456789ab")
    assert worker.supervisor.burn(task_id)
    assert worker.supervisor.look(task_id).claim == "burnt"


async def test_without_room_for_a_result_nothing_is_claimed_and_nothing_starts(
    worker: Worker, tmp_path: Path
) -> None:
    task_id = worker.prepare(("/bin/touch", str(tmp_path / "started")))
    # No disk can be filled here: a device that cannot be reserved stands for a full one.
    (worker.supervisor.directory(task_id) / ".result").symlink_to("/dev/full")
    await worker.supervisor.spawn(task_id)
    look = await worker.until(task_id, lambda look: not look.child_alive)
    assert (look.claim, look.result) == ("none", False)
    assert not (tmp_path / "started").exists()
    log = worker.supervisor.tasks_dir / "shim.log"
    assert "not claimed" in log.read_text()
    log.write_text("")


async def test_a_straggler_that_finds_no_directory_ends_without_a_trace(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/true",))
    [straggler] = shims(1)
    directory = worker.supervisor.directory(task_id)
    worker.supervisor.discard(task_id)
    hand(straggler, directory)
    assert await asyncio.to_thread(wait_all, [straggler]) == [0]
    assert not directory.exists()


async def test_end_of_input_before_a_task_ends_the_idle_shim_silently(worker: Worker) -> None:
    [idle] = shims(1)
    assert idle.stdin is not None
    idle.stdin.close()
    assert await asyncio.to_thread(wait_all, [idle]) == [0]
    assert list(worker.supervisor.tasks_dir.iterdir()) == [worker.supervisor.tasks_dir / "shim.log"]


async def test_a_claim_that_a_loss_of_power_emptied_is_a_dead_shim_s(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/true",))
    (worker.supervisor.directory(task_id) / "claim").write_bytes(b"")
    look = worker.supervisor.look(task_id)
    assert (look.claim, look.owner_alive, look.result) == ("shim", False, False)
    assert not worker.supervisor.burn(task_id)


async def test_a_locked_claim_of_another_process_than_named_is_not_alive(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "60"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    path = worker.supervisor.directory(task_id) / "claim"
    whole = path.read_text()
    claim = json.loads(whole)
    for change in ({"start_time": claim["start_time"] + 1}, {"boot_id": "another"}, {"pid": 1}):
        path.write_text(json.dumps(claim | change))
        assert not worker.supervisor.look(task_id).owner_alive
    path.write_text(whole)
    assert worker.supervisor.look(task_id).owner_alive
    worker.supervisor.end(task_id, "cancelled")
    await worker.result(task_id)


async def test_a_killed_idle_shim_is_replaced_and_its_task_can_be_given_again(
    worker: Worker,
) -> None:
    await worker.run(("/bin/true",))
    keeper = worker.supervisor.warm_pid
    assert keeper is not None
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    for pid in (keeper, *map(int, children)):
        os.kill(pid, signal.SIGSTOP)
    task_id = worker.prepare(("/bin/true",))
    await worker.supervisor.spawn(task_id)
    for pid in (keeper, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):  # a child may end with its keeper
            os.kill(pid, signal.SIGKILL)
    look = await worker.until(task_id, lambda look: not look.child_alive)
    assert look.claim == "none"
    await worker.supervisor.spawn(task_id)
    assert (await worker.result(task_id)).exit_code == 0


async def test_a_killed_shim_leaves_a_dead_owner_no_result_and_counted_processes(
    worker: Worker,
) -> None:
    task_id = worker.prepare(("/bin/sh", "-c", "sleep 61 & sleep 62 & echo ready; wait"))
    await worker.supervisor.spawn(task_id)
    await worker.printed(task_id, b"ready")
    pid = worker.claim(task_id)["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    look = await worker.until(task_id, lambda look: not look.owner_alive)
    assert (look.claim, look.result) == ("shim", False)
    assert worker.supervisor.count_processes(task_id) == 3
    await worker.eventually(lambda: worker.supervisor.end_survivors(task_id) == 0)
    assert look.agent_pid is not None
    assert not alive(look.agent_pid)


async def test_survivors_are_not_ended_while_their_shim_lives(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "60"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    assert worker.supervisor.end_survivors(task_id) == 1
    assert worker.supervisor.look(task_id).owner_alive
    worker.supervisor.end(task_id, "cancelled")
    await worker.result(task_id)
