"""A repair turn: at most one, by the worker's word, in what is left of the task's time."""

import os
from pathlib import Path

import pytest

from cmesh.model import TaskId
from cmesh.runner.evidence import Exit, Turn
from cmesh.runner.shim_repair import NO_WORD, RAN, SESSION_MARK
from tests.system.runner.support import CONTAINMENTS, Worker, python

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.parametrize("containment", CONTAINMENTS),
]

# Each start leaves a letter, says what it was given, and ends as it was told.
AGENT = """
import os, sys
with open(sys.argv[1], "a") as file:
    file.write("x")
print(*sys.argv[3:], sys.stdin.read(), flush=True)
print("trouble", sys.argv[2], file=sys.stderr, flush=True)
os._exit(int(sys.argv[2]))
"""


class Bench:
    """An agent that counts its starts in a file."""

    def __init__(self, worker: Worker, place: Path) -> None:
        self.worker, self._starts = worker, place / "starts"

    @property
    def starts(self) -> int:
        return self._starts.stat().st_size

    def argv(self, code: int, *more: str) -> tuple[str, ...]:
        return (*python(AGENT), str(self._starts), str(code), *more)

    async def first_turn(self, *, code: int = 0, again: int = 0, runtime_s: int = 60) -> TaskId:
        task_id = self.worker.prepare(
            self.argv(code, "first"),
            stdin=b"how many?",
            again=self.argv(again, "again", SESSION_MARK),
            runtime_s=runtime_s,
        )
        await self.worker.supervisor.spawn(task_id)
        return task_id

    async def asked(self, task_id: TaskId) -> Turn:
        supervisor = self.worker.supervisor
        await self.worker.until(task_id, lambda _look: supervisor.turn(task_id) is not None)
        turn = supervisor.turn(task_id)
        assert turn is not None
        return turn


@pytest.fixture
def bench(worker: Worker, tmp_path: Path) -> Bench:
    return Bench(worker, tmp_path)


def spool(worker: Worker, task_id: TaskId) -> bytes:
    return worker.supervisor.read_spool(task_id, 0, 10_000)


def ran(exit_: Exit) -> str:
    assert exit_.turn is not None
    return exit_.turn.again


async def test_the_agent_goes_on_once_however_often_it_is_told(bench: Bench) -> None:
    task_id = await bench.first_turn(again=3)
    turn = await bench.asked(task_id)
    assert (turn.exit_code, turn.again) == (0, "")
    for _ in range(3):
        bench.worker.supervisor.tell_again(task_id, "talk-1", "set it right")
    exit_ = await bench.worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, ran(exit_)) == ("exited", 3, RAN)
    assert bench.starts == 2
    output = spool(bench.worker, task_id)
    assert output == b"first how many?\nagain talk-1 set it right\n"
    assert exit_.turn is not None
    assert output[: exit_.turn.stdout_kept] == b"first how many?\n"
    assert (exit_.stdout_kept, exit_.stderr_kept) == (len(output), len("trouble 0\ntrouble 3\n"))


async def test_the_next_daemons_word_counts_as_well(bench: Bench, tmp_path: Path) -> None:
    task_id = await bench.first_turn()
    await bench.asked(task_id)
    await bench.worker.supervisor.close()
    later = Bench(Worker(tmp_path / "tasks", bench.worker.containment), tmp_path)
    await later.worker.supervisor.start()
    try:
        await later.asked(task_id)
        later.worker.supervisor.tell_again(task_id, "talk-1", "set it right")
        exit_ = await later.worker.result(task_id)
        assert (ran(exit_), later.starts) == (RAN, 2)
    finally:
        await later.worker.supervisor.close()


async def test_one_that_is_not_wanted_changes_nothing(bench: Bench) -> None:
    task_id = await bench.first_turn()
    await bench.asked(task_id)
    bench.worker.supervisor.tell_again(task_id, "", why="the answer fits")
    exit_ = await bench.worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, ran(exit_)) == ("exited", 0, "the answer fits")
    assert bench.starts == 1


async def test_without_a_word_it_ends_with_the_tasks_time(bench: Bench) -> None:
    task_id = await bench.first_turn(runtime_s=1)
    exit_ = await bench.worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, ran(exit_)) == ("exited", 0, NO_WORD)
    assert bench.starts == 1


async def test_a_cancel_while_it_waits_is_counted(bench: Bench) -> None:
    task_id = await bench.first_turn()
    await bench.asked(task_id)
    bench.worker.supervisor.end(task_id, "cancelled")
    exit_ = await bench.worker.result(task_id)
    assert (exit_.verdict, exit_.processes_left, exit_.end_reason) == ("cancelled", 0, "cancelled")
    assert bench.starts == 1


async def test_one_that_failed_is_not_asked_again(bench: Bench) -> None:
    task_id = await bench.first_turn(code=4)
    exit_ = await bench.worker.result(task_id)
    assert (exit_.exit_code, exit_.turn, bench.starts) == (4, None, 1)


async def test_one_that_cannot_start_again_keeps_its_end(bench: Bench) -> None:
    gone = f"{os.path.sep}nowhere"
    task_id = bench.worker.prepare(bench.argv(0, "first"), again=(gone,))
    await bench.worker.supervisor.spawn(task_id)
    await bench.asked(task_id)
    bench.worker.supervisor.tell_again(task_id, "talk-1", "set it right")
    exit_ = await bench.worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, bench.starts) == ("exited", 0, 1)
    assert gone in ran(exit_)
