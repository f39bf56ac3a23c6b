"""What workers said of unfinished tasks that is stored nowhere: for display and for retries."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cmesh.clock import Clock
from cmesh.daemon.deadlines import Deadlines
from cmesh.daemon.refusals import RESTORED_CODE
from cmesh.errors import DiskFull, TaskNotFound
from cmesh.model import TaskId
from cmesh.protocol.link_messages import Failure

__all__ = ["FORGOTTEN", "Hearsay", "Note", "forgotten"]

ASK_AGAIN_AFTER_S = 5.0
"""How long a worker without room for a task is left alone, when it names no time."""

FORGOTTEN = frozenset({RESTORED_CODE, TaskNotFound.code})
"""What a worker answers that has lost a task, or some of it. What it never took is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What keeps a task, as last heard, and when by the monotonic clock; in memory only.

    Attributes:
        retry_after_s: when the worker may be asked again, counted from `at`; None = never
            by time alone.
    """

    code: str = ""
    reason: str = ""
    at: float = 0.0
    retry_after_s: int | None = None


class Hearsay:
    """What was said of each task; forgotten with the daemon."""

    def __init__(self, clock: Clock, alive: Callable[[TaskId], bool]) -> None:
        """Make it; `alive` says whether a task is still looked after here."""
        self._clock = clock
        self._again: Deadlines[float] = Deadlines(alive)
        self._notes: dict[TaskId, Note] = {}
        self._heard: dict[TaskId, datetime] = {}
        self._left: dict[TaskId, int] = {}

    def note(self, task_id: TaskId) -> Note:
        """Return what keeps a task, as far as this node was told."""
        return self._notes.get(task_id, Note())

    def heard(self, task_id: TaskId) -> datetime | None:
        """Return when its worker last said anything of a task."""
        return self._heard.get(task_id)

    def processes_left(self, task_id: TaskId) -> int | None:
        """Return how many processes the worker counted last of a task that it ends."""
        return self._left.get(task_id)

    def hear(self, task_id: TaskId) -> None:
        """Note that the worker has said something of a task."""
        self._heard[task_id] = self._clock.now()

    def count(self, task_id: TaskId, processes_left: int) -> None:
        """Note how many processes are left of a task that the worker ends."""
        self._left[task_id] = processes_left

    def take(self, message: Failure) -> bool:
        """Note why a message about a task was not taken; False when that says nothing new."""
        task_id = TaskId(message.about)
        # That a task is not known follows from why it was not taken, which came before.
        if message.code == TaskNotFound.code and task_id in self._notes:
            return False
        self._notes[task_id] = Note(
            code=message.code,
            reason=message.reason,
            at=self._clock.monotonic(),
            retry_after_s=message.retry_after_s,
        )
        at = self._again_at(task_id)
        if at is not None:
            self._again.add(task_id, at)
        return True

    def stalled(self, task_id: TaskId) -> None:
        """Note that what the worker said could not be stored: it is asked again soon."""
        self._again.add(task_id, self._clock.monotonic())

    def due(self) -> list[TaskId]:
        """Take out the tasks whose worker may be asked again by now, or must be.

        Costs what is due, and not what waits.
        """
        return self._again.due(self._clock.monotonic())

    def refused(self, task_id: TaskId) -> bool:
        """Say whether its worker did not take a task, and may be asked again by now."""
        at = self._again_at(task_id)
        return at is not None and self._clock.monotonic() >= at

    def _again_at(self, task_id: TaskId) -> float | None:
        note = self.note(task_id)
        after_s = note.retry_after_s
        if after_s is None and note.code == DiskFull.code:
            after_s = ASK_AGAIN_AFTER_S
        return None if after_s is None else note.at + after_s

    def settle(self, task_id: TaskId) -> None:
        """Forget what kept a task: it goes on."""
        self._notes.pop(task_id, None)

    def drop(self, task_id: TaskId) -> None:
        """Forget all that was said of a task."""
        self._notes.pop(task_id, None)
        self._heard.pop(task_id, None)
        self._left.pop(task_id, None)


def forgotten(code: str, name: str) -> str:
    """Say in this node's words what a worker has answered that lost a task; `FORGOTTEN` codes."""
    lost = (
        f"the store of `{name}` was put back to an older copy, and has lost what it had told of"
        " this task"
    )
    if code == TaskNotFound.code:
        lost = (
            f"`{name}` had taken this task and has no such task of this node any more: its store"
            " was put back to an older copy, or this node has another id by now"
        )
    return (
        f"{lost}; nobody can say what became of it: it is not sent again, cannot be ended, and is"
        " taken up if more of it comes to light; look there for what it did, then delegate it anew"
    )
