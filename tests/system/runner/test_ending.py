"""Cancel, deadline, leftovers: a tree ends whole, and the shim alone says how."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.system.runner.support import Worker, alive, python

pytestmark = [pytest.mark.anyio, pytest.mark.system]

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
import os, subprocess, sys
child = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
"""


async def test_a_cancel_ends_a_tree_that_ignores_sigterm(worker: Worker) -> None:
    task_id = worker.prepare(python(STUBBORN))
    await worker.supervisor.spawn(task_id)
    pids = [int(pid) for pid in (await worker.printed(task_id, b"\n")).split()]
    assert len(pids) == 4
    assert worker.supervisor.count_processes(task_id) == 4
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.end_reason) == ("cancelled", -9, "cancelled")
    assert (exit_.processes_left, exit_.leftovers_ended) == (0, 3)
    assert not any(alive(pid) for pid in pids)
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
    pid = worker.claim(task_id)["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGHUP)
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


async def test_a_background_process_does_not_outlive_its_agent(worker: Worker) -> None:
    task_id = worker.prepare(python(BACKGROUND))
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code) == ("exited", 0)
    assert (exit_.leftovers_ended, exit_.processes_left) == (1, 0)
    assert not alive(int(worker.output(task_id)))


async def test_a_tree_that_forks_all_the_time_is_ended(worker: Worker) -> None:
    code = "import os\nprint('go', flush=True)\nwhile True:\n if os.fork(): os._exit(0)\n"
    task_id = worker.prepare(python(code), runtime_s=20)
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.processes_left) == ("exited", 0)
    assert worker.supervisor.count_processes(task_id) == 0


async def test_a_process_of_the_same_pid_but_another_start_is_never_signalled() -> None:
    from cmesh.runner import shim

    stat = shim.stat_of(os.getpid())
    assert stat is not None
    assert shim.signal_process((os.getpid(), stat[2]), 0)
    assert not shim.signal_process((os.getpid(), stat[2] + 1), signal.SIGKILL)


async def test_the_end_wish_is_on_disk_before_the_signal(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "60"))
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.agent_pid is not None)
    worker.supervisor.end(task_id, "cancelled")
    wish = json.loads((worker.supervisor.directory(task_id) / "end").read_bytes())
    assert wish == {"reason": "cancelled"}
    await worker.result(task_id)
