"""What holds a task's processes is told, a cancel says how far it is, files may be tampered with."""

import os
import signal
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import CancelArguments
from cmesh.model import TaskState
from cmesh.runner import processes
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

REPORT_LIMIT_S = 5.0


@pytest.fixture(scope="module")
def place(pair: tuple[Machine, Machine]) -> Path:
    return pair[1].directory("app")


async def begun(laptop: Machine, command: str, place: Path, text: str) -> TaskView:
    view = await laptop.delegate("builder", f"command:{command}", place, new=True)

    async def printed() -> TaskView | None:
        now = await laptop.task(view.task_id)
        return now if any(event.text == text for event in now.events) else None

    return await eventually(printed)


async def test_both_sides_and_the_status_say_what_holds_a_task(
    pair: tuple[Machine, Machine], place: Path
) -> None:
    laptop, builder = pair
    held = (await builder.status()).containment
    assert held in {"pid_namespace", "best_effort"}
    done = await laptop.delegate("builder", "command:true", place, new=True, wait_s=20)
    assert (done.state, done.containment) == (TaskState.SUCCEEDED, held)
    assert (await builder.task(done.task_id)).containment == held
    for shown in (builder.cli("show", done.task_id), builder.cli("status")):
        [line] = [line for line in shown.stdout.splitlines() if line.startswith("contained")]
        assert held.replace("_", " ") in line


async def test_a_cancel_tells_how_many_processes_are_left(
    pair: tuple[Machine, Machine], place: Path
) -> None:
    laptop, _ = pair
    view = await begun(laptop, "stubborn", place, "ready")
    await laptop.call("cancel_task", CancelArguments(task_id=view.task_id))

    async def counted() -> TaskView | None:
        now = await laptop.task(view.task_id)
        return now if now.processes_left or now.state is TaskState.CANCELLED else None

    now = await eventually(counted)
    assert now.state is TaskState.CANCELLING
    assert now.processes_left in {2, 3}  # the shell, what it put behind itself, and its pause
    ended = await laptop.ended(view.task_id)
    assert (ended.state, ended.processes_left) == (TaskState.CANCELLED, 0)
    assert "counted 0 processes in its PID namespace" in ended.witness


async def test_a_killed_shim_is_reported_at_once_and_leaves_nothing(
    pair: tuple[Machine, Machine], place: Path
) -> None:
    laptop, builder = pair
    view = await begun(laptop, "stubborn", place, "ready")
    claim = processes.read_owner(f"{builder.state}/tasks/{view.task_id}/claim")
    assert claim is not None
    os.kill(claim.pid, signal.SIGKILL)
    ended = await laptop.ended(view.task_id, REPORT_LIMIT_S)
    assert (ended.state, ended.code) == (TaskState.INTERRUPTED, "interrupted")
    assert "zero processes counted" in ended.witness
    assert processes.task_processes(view.task_id, claim, owner_alive=False) == set()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("edited", "the output was changed after the shim recorded it"),
        ("truncated", "the output was changed after the shim recorded it"),
        ("deleted", "the output was deleted before it was stored"),
    ],
)
async def test_a_spool_damaged_by_hand_is_told_and_the_end_stands(
    pair: tuple[Machine, Machine], place: Path, damage: str, words: str
) -> None:
    laptop, builder = pair
    view = await begun(laptop, "held", place, "one")
    spool = builder.state / "tasks" / view.task_id / "stdout"
    if damage == "deleted":
        spool.unlink()
    else:
        with spool.open("r+b") as file:
            file.truncate(0) if damage == "truncated" else file.write(b"two")
    (place / "go").touch()
    ended = await laptop.ended(view.task_id)
    assert (ended.state, ended.exit_code) == (TaskState.SUCCEEDED, 0)
    assert words in ended.witness
    rows = await laptop.sql(
        "SELECT output_bytes, output_kept, truncated, error FROM results "
        f"WHERE task_id = '{view.task_id}'"
    )
    assert rows == [[8, 0, True, words]]


async def test_a_result_damaged_by_hand_is_a_failure_that_says_so(
    pair: tuple[Machine, Machine], place: Path
) -> None:
    laptop, builder = pair
    view = await begun(laptop, "held", place, "one")
    # Nobody can be quicker than the daemon once the shim wrote it: so it is put there before.
    (builder.state / "tasks" / view.task_id / "result.json").write_bytes(b"{")
    (place / "go").touch()
    ended = await laptop.ended(view.task_id)
    assert (ended.state, ended.code) == (TaskState.FAILED, "runner_failed")
    assert "cannot be read" in ended.witness
    # A word of the program may come before the worker has seen it run: then nobody knows when.
    began = ended.started_at or ended.created_at
    assert ended.ended_at is not None
    assert ended.created_at <= began <= ended.ended_at
