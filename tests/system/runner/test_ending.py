"""Cancel, deadline, leftovers: a tree ends whole, and the shim alone says how."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from cmesh.model import TaskState
from cmesh.runner.reader import ended
from tests.system.runner.support import CONTAINMENTS, Worker, alive, lives, python

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.parametrize("containment", CONTAINMENTS),
]

# Ignores SIGTERM; one child in a session of its own, one that lost its parent, one in the group.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-I", "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
pids = [subprocess.Popen(sleep, start_new_session=new).pid for new in (True, False)]
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, str(os.getpid()).encode())
        os.execve(sleep[0], sleep, {})
    os._exit(0)
pids.append(int(os.read(read, 20)))
print(os.getpid(), *pids, flush=True)
time.sleep(600)
"""
POLITE = r"""
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"bye\n"), os._exit(0)))
os.write(1, b"ready\n")
time.sleep(600)
"""
BACKGROUND = """
import subprocess, sys
subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
print("ready", flush=True)
sys.stdin.read()
"""
WAITS = """
import sys
print("ready", flush=True)
sys.stdin.read()
"""
DEADLINE_S = 1.5
# Each process forks the next one and ends; bounded, so that nothing spins on if a test is killed.
CHAIN = """
import os, time
print("go", flush=True)
end = time.monotonic() + 30
while time.monotonic() < end:
    if os.fork(): os._exit(0)
"""


async def test_a_cancel_ends_a_tree_that_ignores_sigterm(worker: Worker) -> None:
    task_id = worker.prepare(python(STUBBORN))
    await worker.supervisor.spawn(task_id)
    assert len((await worker.printed(task_id, b"\n")).split()) == 4
    processes = worker.processes(task_id)
    assert (len(processes), worker.supervisor.count_processes(task_id)) == (4, 4)
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.end_reason) == ("cancelled", -9, "cancelled")
    assert (exit_.processes_left, exit_.leftovers_ended) == (0, 3)
    assert "counted 0 processes" in exit_.witness
    assert not any(lives(process) for process in processes)
    assert worker.supervisor.count_processes(task_id) == 0


async def test_a_polite_agent_ends_by_itself_and_is_still_cancelled(worker: Worker) -> None:
    task_id = worker.prepare(python(POLITE))
    await worker.supervisor.spawn(task_id)
    await worker.printed(task_id, b"ready")
    worker.supervisor.end(task_id, "revoked")
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.end_reason) == ("cancelled", 0, "revoked")
    assert worker.output(task_id) == b"ready\nbye\n"


async def test_a_wish_from_before_the_claim_means_no_start(worker: Worker, tmp_path: Path) -> None:
    task_id = worker.prepare(("/bin/touch", str(tmp_path / "started")))
    worker.supervisor.end(task_id, "cancelled")
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code) == ("cancelled", None)
    assert not (tmp_path / "started").exists()


async def test_an_agent_that_finished_first_is_not_cancelled(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/true",))
    await worker.supervisor.spawn(task_id)
    first = await worker.result(task_id)
    worker.supervisor.end(task_id, "cancelled")
    assert (await worker.result(task_id)) == first
    assert first.verdict == "exited"


@pytest.mark.parametrize("attempt", range(10))
async def test_a_race_of_finish_and_cancel_has_one_result(worker: Worker, attempt: int) -> None:
    task_id = worker.prepare(("/bin/sleep", f"0.00{attempt}"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code) in {("exited", 0), ("cancelled", -15), ("cancelled", 0)}


async def test_a_sigterm_that_is_not_the_worker_s_is_no_cancel(worker: Worker) -> None:
    task_id = worker.prepare(python(POLITE))
    await worker.supervisor.spawn(task_id)
    await worker.printed(task_id, b"ready")
    os.kill(worker.shim(task_id), signal.SIGTERM)
    os.kill(worker.shim(task_id), signal.SIGHUP)
    look = worker.supervisor.look(task_id)
    assert look.owner_alive
    assert look.agent_pid is not None
    os.kill(look.agent_pid, signal.SIGTERM)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code) == ("exited", 0)


async def test_the_deadline_ends_the_tree(worker: Worker) -> None:
    task_id = worker.prepare(python(STUBBORN), runtime_s=1)
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.processes_left) == ("timed_out", -9, 0)
    assert worker.supervisor.count_processes(task_id) == 0


async def test_an_agent_that_says_nothing_is_ended_and_one_that_speaks_is_not(
    worker: Worker,
) -> None:
    code = "import sys, time; print('ready', flush=True); sys.stderr.write('again'); {}"
    exit_ = await worker.run(python(code.format("time.sleep(600)")), idle_s=1)
    assert (exit_.verdict, exit_.processes_left) == ("idle_limit", 0)
    assert ended(exit_)[::2] == (TaskState.FAILED, "idle_limit")
    assert exit_.witness.startswith("it printed nothing for 1 s, shim recorded signal 15")
    assert exit_.stdout_kept == len("ready\n")
    speaks = "[(print(n, flush=True), time.sleep(0.5)) for n in range(10)]"
    exit_ = await worker.run(python(code.format(speaks)), idle_s=4)
    assert (exit_.verdict, exit_.exit_code) == ("exited", 0)


async def test_an_agent_that_ended_while_its_shim_stood_still_was_not_timed_out(
    worker: Worker,
) -> None:
    task_id = worker.prepare(python(WAITS), runtime_s=1)
    # A pipe for standard input, so that the agent ends when the test says so.
    stdin = worker.supervisor.directory(task_id) / "stdin"
    stdin.unlink()
    os.mkfifo(stdin)
    await worker.supervisor.spawn(task_id)
    go = await asyncio.to_thread(os.open, stdin, os.O_WRONLY)
    begun = time.monotonic()
    await worker.printed(task_id, b"ready")
    agent = worker.supervisor.look(task_id).agent_pid
    assert agent is not None
    os.kill(worker.shim(task_id), signal.SIGSTOP)
    try:
        os.close(go)
        await worker.eventually(lambda: not alive(agent) and time.monotonic() > begun + DEADLINE_S)
    finally:
        os.kill(worker.shim(task_id), signal.SIGCONT)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.processes_left) == ("exited", 0, 0)


async def test_a_background_process_does_not_outlive_its_agent(worker: Worker) -> None:
    task_id = worker.prepare(python(BACKGROUND))
    # A pipe for standard input, so that the agent waits until its processes were looked at.
    stdin = worker.supervisor.directory(task_id) / "stdin"
    stdin.unlink()
    os.mkfifo(stdin)
    await worker.supervisor.spawn(task_id)
    go = await asyncio.to_thread(os.open, stdin, os.O_WRONLY)
    await worker.printed(task_id, b"ready")
    processes = worker.processes(task_id)
    assert len(processes) == 2
    os.close(go)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code) == ("exited", 0)
    assert (exit_.leftovers_ended, exit_.processes_left) == (1, 0)
    assert not any(lives(process) for process in processes)


async def test_a_tree_that_forks_all_the_time_is_ended(worker: Worker) -> None:
    task_id = worker.prepare(python(CHAIN), runtime_s=20)
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.processes_left) == ("exited", 0)
    assert worker.supervisor.count_processes(task_id) == 0


async def test_the_end_wish_is_on_disk_before_the_signal(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "60"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    worker.supervisor.end(task_id, "cancelled")
    wish = json.loads((worker.supervisor.directory(task_id) / "end").read_bytes())
    assert wish == {"reason": "cancelled"}
    await worker.result(task_id)
