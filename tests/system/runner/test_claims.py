"""The start protocol: at most one agent a task, whoever is killed and whenever."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cmesh.model import TaskId
from cmesh.runner import processes
from cmesh.runner.manifest import Session
from cmesh.runner.sessions import Sessions
from cmesh.runner.shim_processes import signal_process, stat_of
from tests.system.runner.support import PYTHON, SHIM, WAIT_LIMIT_S, Worker, alive, python

pytestmark = [pytest.mark.anyio, pytest.mark.system]

TALKS = Session(new=(), resume=(), home="talks", file="*", adds_up_cost=False)
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


async def test_a_task_handed_to_the_next_keeper_is_watched_when_the_last_one_is_told_dead(
    worker: Worker,
) -> None:
    await worker.run(("/bin/true",))
    keeper = worker.supervisor.warm_pid
    assert keeper is not None
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    for pid in (keeper, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    # No turn of the loop in between, so that nobody has been told of the end yet.
    while any(map(alive, (keeper, *map(int, children)))):
        time.sleep(0.001)
    task_id = worker.prepare(("/bin/sleep", "60"))
    await worker.supervisor.spawn(task_id)
    assert worker.supervisor.warm_pid != keeper
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    os.kill(worker.shim(task_id), signal.SIGKILL)
    await worker.until(task_id, lambda look: not look.owner_alive)


async def test_the_end_of_an_owner_that_has_closed_its_pipe_is_told(
    worker: Worker,
) -> None:
    task_id = worker.prepare(("/bin/true",))
    claim = worker.supervisor.directory(task_id) / "claim"
    # As a killed process is for a moment: its pipe is closed, its lock is not.
    holds = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); "
    argv = [*python(holds + "print(flush=True); time.sleep(60)"), str(claim)]
    claim.touch()
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as owner:
        stat = stat_of(owner.pid)
        assert stat is not None
        assert owner.stdout is not None
        owner.stdout.readline()
        who = {"boot_id": processes.boot_id(), "pid": owner.pid, "start_time": stat[2]}
        claim.write_text(json.dumps(who))
        assert worker.supervisor.look(task_id).owner_alive
        owner.kill()
        await worker.until(task_id, lambda look: not look.owner_alive)


async def test_survivors_are_not_ended_while_their_shim_lives(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "60"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    assert worker.supervisor.end_survivors(task_id) == 1
    assert worker.supervisor.look(task_id).owner_alive
    worker.supervisor.end(task_id, "cancelled")
    await worker.result(task_id)


async def test_a_process_of_the_same_pid_but_another_start_is_never_signalled() -> None:
    stat = stat_of(os.getpid())
    assert stat is not None
    assert signal_process((os.getpid(), stat[2]), 0)
    assert not signal_process((os.getpid(), stat[2] + 1), signal.SIGKILL)


async def test_where_no_namespace_can_be_had_a_task_runs_and_the_claim_says_so(
    worker: Worker,
) -> None:
    task_id = worker.prepare(("/bin/echo", "done"))
    # A user namespace in which no other namespace may be made.
    refuse = "cd /proc/sys/user; echo 0 > max_user_namespaces; echo 0 > max_pid_namespaces"
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{refuse}; exec "$@"', "sh"]
    with subprocess.Popen(
        [*inside, PYTHON, "-I", "-S", SHIM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        hand(process, worker.supervisor.directory(task_id))
        await asyncio.to_thread(process.stdout.read)
    note = "user namespace: No space left on device"
    assert said == {"containment": "best_effort", "note": note}
    await worker.eventually(lambda: worker.supervisor.look(task_id).result)
    look = worker.supervisor.look(task_id)
    assert (look.containment, look.containment_note) == ("best_effort", note)
    assert look.exit is not None
    assert (look.exit.exit_code, look.exit.containment) == (0, "best_effort")


async def test_inside_its_namespace_a_task_has_its_own_proc_and_the_worker_s_user(
    worker: Worker, tmp_path: Path
) -> None:
    code = (
        "import os, pathlib, sys; "
        "pathlib.Path(sys.argv[1]).touch(); "
        "print(os.getpid(), os.readlink('/proc/self'), os.getuid(), os.getgid())"
    )
    task_id = worker.prepare((*python(code), str(tmp_path / "made")))
    await worker.supervisor.spawn(task_id)
    assert (await worker.result(task_id)).containment == "pid_namespace"
    pid, self_, uid, gid = worker.output(task_id).split()
    assert pid == self_
    assert (int(uid), int(gid)) == (os.getuid(), os.getgid())
    made = (tmp_path / "made").stat()
    assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())


async def test_a_namespace_whose_first_process_is_killed_ends_its_task_and_says_so(
    worker: Worker,
) -> None:
    task_id = worker.prepare(("/bin/sleep", "600"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    claim = processes.read_owner(f"{worker.supervisor.directory(task_id)}/claim")
    assert claim is not None
    assert signal_process(claim.first, signal.SIGKILL)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.processes_left) == ("exited", -9, 0)
    assert "first process" in exit_.error


@pytest.mark.parametrize("text", ["", "{", "{}", "5", "[]"])
async def test_a_launch_damaged_by_hand_starts_nothing_and_says_so(
    worker: Worker, text: str
) -> None:
    task_id = worker.prepare(("/bin/true",))
    (worker.supervisor.directory(task_id) / "launch.json").write_text(text)
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert exit_.verdict == "spawn_failed"
    assert "`launch.json` makes no sense" in exit_.error


async def test_two_turns_of_one_conversation_never_run_at_once(
    worker: Worker, tmp_path: Path
) -> None:
    session = Sessions(tmp_path / "sessions").place(TaskId("thread"), TALKS)
    first = worker.prepare(python("print('in')"), session=session)
    home = worker.supervisor.directory(first) / "home"
    assert (home / "talks").resolve() == session.files
    await worker.supervisor.spawn(first)
    hold = worker.prepare(python("import time; time.sleep(60)"), session=session)
    await worker.result(first)
    # The result is there, so the lock is free, even while the first shim still ends.
    await worker.supervisor.spawn(hold)
    await worker.until(hold, lambda look: look.agent_pid is not None)
    second = await worker.run(python("print('in')"), session=session)
    assert (second.verdict, second.exit_code) == ("spawn_failed", None)
    assert "another turn of this conversation" in second.error
    worker.supervisor.end(hold, "cancelled")
    assert (await worker.result(hold)).verdict == "cancelled"
    third = await worker.run(python("print('in')"), session=session)
    assert (third.verdict, third.exit_code) == ("exited", 0)
