"""A daemon that is killed takes no task along; the next one adopts them."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmesh.model import TaskId
from tests.system.runner.support import WAIT_LIMIT_S, Worker, alive, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[3]
# Prints, waits for a file, prints again.
CODE = """
import os, time
print("one", flush=True)
while not os.path.exists({go!r}): time.sleep(0.01)
print("two", flush=True)
"""


async def killed_while_running(tmp_path: Path) -> TaskId:
    """Start a task by a daemon of its own and kill that with -9 while the task runs."""
    task_id = new_id()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "tests.system.runner.daemon_side", str(tmp_path / "tasks"), task_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    with daemon.stdin as stdin:
        stdin.write(CODE.format(go=str(tmp_path / "go")).encode())
    with daemon.stdout as stdout:
        assert stdout.readline() == b"running\n"
        daemon.kill()
        daemon.wait(WAIT_LIMIT_S)
    return task_id


@pytest.fixture
async def adopted(tmp_path: Path) -> AsyncIterator[tuple[Worker, TaskId]]:
    task_id = await killed_while_running(tmp_path)
    worker = Worker(tmp_path / "tasks")
    await worker.supervisor.start()
    yield worker, task_id
    await worker.supervisor.close()


async def test_the_next_daemon_adopts_a_running_task(
    adopted: tuple[Worker, TaskId], tmp_path: Path
) -> None:
    worker, task_id = adopted
    look = worker.supervisor.look(task_id)
    assert (look.claim, look.owner_alive, look.result) == ("shim", True, False)
    assert look.agent_pid is not None
    assert alive(look.agent_pid)
    (tmp_path / "go").touch()
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code) == ("exited", 0)
    assert worker.output(task_id) == b"one\ntwo\n"


async def test_the_next_daemon_can_cancel_an_adopted_task(
    adopted: tuple[Worker, TaskId],
) -> None:
    worker, task_id = adopted
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.processes_left) == ("cancelled", 0)


async def test_a_spawn_of_an_adopted_task_starts_nothing(
    adopted: tuple[Worker, TaskId], tmp_path: Path
) -> None:
    worker, task_id = adopted
    before = worker.supervisor.look(task_id).agent_pid
    await worker.supervisor.spawn(task_id)
    (tmp_path / "go").touch()
    await worker.result(task_id)
    assert worker.supervisor.look(task_id).agent_pid == before
    assert worker.output(task_id).count(b"one") == 1


async def test_a_task_that_finished_without_a_daemon_has_its_result(tmp_path: Path) -> None:
    task_id = await killed_while_running(tmp_path)
    (tmp_path / "go").touch()
    watcher = Worker(tmp_path / "tasks")
    await watcher.eventually(lambda: watcher.supervisor.look(task_id).result)
    await watcher.supervisor.start()
    assert (await watcher.result(task_id)).exit_code == 0
    await watcher.supervisor.close()


async def test_a_closed_supervisor_leaves_its_tasks_running(tmp_path: Path) -> None:
    first = Worker(tmp_path / "tasks")
    await first.supervisor.start()
    task_id = first.prepare(("/bin/sleep", "60"))
    await first.supervisor.spawn(task_id)
    await first.until(task_id, lambda look: look.agent_pid is not None)
    await first.supervisor.close()
    second = Worker(tmp_path / "tasks")
    await second.supervisor.start()
    assert second.supervisor.look(task_id).owner_alive
    second.supervisor.end(task_id, "cancelled")
    assert (await second.result(task_id)).verdict == "cancelled"
    await second.supervisor.close()


async def test_a_half_deleted_directory_of_an_earlier_life_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "tasks" / ".gone-x" / "home").mkdir(parents=True)
    (tmp_path / "tasks").chmod(0o700)
    worker = Worker(tmp_path / "tasks")
    await worker.supervisor.start()
    await worker.eventually(lambda: not (tmp_path / "tasks" / ".gone-x").exists())
    await worker.supervisor.close()
