"""A shim that is killed with -9, and agents that try to outlive it or their task."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from cmesh.model import TaskId
from cmesh.runner.launch import Containment
from cmesh.runner.shim_processes import Process, children_of, process_of, signal_process
from tests.system.runner.support import CONTAINMENTS, Worker, lives, python
from tests.system.runner.test_ending import CHAIN

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.parametrize("containment", CONTAINMENTS),
]

REPORT_LIMIT_S = 5.0
# The long form of `scripts/chaos` raises it.
ENDED_TASKS = int(os.environ.get("CMESH_TEST_ENDED_TASKS", "30"))

# One of each that got away from something: from its session, its parent, a hangup, its marker.
# All of them ignore SIGTERM, which an exec does not change.
ZOO = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = ["/bin/sleep", "600"]
subprocess.Popen(sleep, start_new_session=True)
subprocess.Popen(["nohup", *sleep], stdout=2, stderr=2, stdin=0)
def twice(env):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sleep[0], sleep, env)
        os._exit(0)
    os.wait()
twice(dict(os.environ))
if "--unmarked" in sys.argv: twice({})
print("ready", flush=True)
os.execv(sleep[0], sleep)
"""


async def started(worker: Worker, argv: tuple[str, ...], text: bytes = b"ready") -> TaskId:
    task_id = worker.prepare(argv)
    await worker.supervisor.spawn(task_id)
    await worker.printed(task_id, text)
    return task_id


async def nothing_left(worker: Worker, task_id: TaskId, processes: set[Process]) -> None:
    """Wait for the report and the end, as the daemon does: look, and end what survives."""
    async with asyncio.timeout(REPORT_LIMIT_S):
        look = await worker.until(task_id, lambda look: not look.owner_alive)
        assert (look.claim, look.result) == ("shim", False)
        await worker.eventually(lambda: worker.supervisor.end_survivors(task_id) == 0)
    assert not [process for process in processes if lives(process)]


async def test_a_shim_killed_while_its_agent_runs_leaves_nothing(worker: Worker) -> None:
    task_id = await started(worker, python(ZOO))
    processes = worker.processes(task_id)
    assert len(processes) == 4
    os.kill(worker.shim(task_id), signal.SIGKILL)
    await nothing_left(worker, task_id, processes)


async def test_only_a_namespace_holds_a_process_that_took_its_marker_off(
    worker: Worker, containment: Containment
) -> None:
    task_id = await started(worker, (*python(ZOO), "--unmarked"))
    processes = worker.processes(task_id)
    assert len(processes) == 5
    os.kill(worker.shim(task_id), signal.SIGKILL)
    if containment == "pid_namespace":
        await nothing_left(worker, task_id, processes)
        return
    await worker.eventually(lambda: worker.supervisor.end_survivors(task_id) == 0)
    [escaped] = [process for process in processes if lives(process)]
    assert signal_process(escaped, signal.SIGKILL)


async def test_a_living_shim_finds_also_what_took_its_marker_off(worker: Worker) -> None:
    task_id = await started(worker, (*python(ZOO), "--unmarked"))
    processes = worker.processes(task_id)
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.processes_left, exit_.leftovers_ended) == ("cancelled", 0, 4)
    assert not [process for process in processes if lives(process)]


async def test_a_shim_killed_after_its_claim_and_before_the_start(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "600"))
    # Whoever opens a pipe that nobody writes to waits: the agent is about to be started.
    stdin = worker.supervisor.directory(task_id) / "stdin"
    stdin.unlink()
    os.mkfifo(stdin)
    await worker.supervisor.spawn(task_id)
    await worker.eventually(lambda: worker.supervisor.look(task_id).claim == "shim")
    shim = worker.shim(task_id)
    below = {process_of(pid) for pid in children_of(shim)}
    os.kill(shim, signal.SIGKILL)
    await nothing_left(worker, task_id, below)
    assert worker.supervisor.look(task_id).agent_pid is None


async def test_an_idle_shim_killed_before_any_claim_leaves_nothing(worker: Worker) -> None:
    keeper = worker.supervisor.warm_pid
    assert keeper is not None
    [idle] = children_of(keeper)
    below = {process_of(pid) for pid in (idle, *children_of(idle))}
    os.kill(idle, signal.SIGKILL)
    await worker.eventually(lambda: not any(lives(process) for process in below))
    await worker.eventually(lambda: worker.supervisor.warm_pid != keeper)
    assert (await worker.run(("/bin/true",))).exit_code == 0


async def test_a_shim_killed_while_it_ends_its_task_leaves_nothing(
    tmp_path: Path, containment: Containment
) -> None:
    worker = Worker(tmp_path / "tasks", containment, grace_s=60.0)
    await worker.supervisor.start()
    task_id = await started(worker, python(ZOO))
    processes = worker.processes(task_id)
    assert len(processes) == 4
    worker.supervisor.end(task_id, "cancelled")
    os.kill(worker.shim(task_id), signal.SIGKILL)
    await nothing_left(worker, task_id, processes)
    await worker.supervisor.close()


async def test_a_forking_chain_does_not_outlive_its_shim(worker: Worker) -> None:
    task_id = await started(worker, python(CHAIN), b"go")
    os.kill(worker.shim(task_id), signal.SIGKILL)
    # By markers it may take several looks; each look ends what it sees.
    await worker.until(task_id, lambda look: not look.owner_alive)
    await worker.eventually(lambda: worker.supervisor.end_survivors(task_id) == 0)


async def test_ended_tasks_leave_no_process(worker: Worker) -> None:
    processes: set[Process] = set()
    for number in range(ENDED_TASKS):
        task_id = await started(worker, (*python(ZOO), "--unmarked"))
        processes |= worker.processes(task_id)
        if number % 3:
            worker.supervisor.end(task_id, "cancelled")
        else:
            agent = worker.supervisor.look(task_id).agent_pid
            assert agent is not None
            os.kill(agent, signal.SIGKILL)
        await worker.result(task_id)
        assert worker.supervisor.count_processes(task_id) == 0
        worker.supervisor.discard(task_id)
    assert len(processes) == 5 * ENDED_TASKS
    assert not [process for process in processes if lives(process)]
