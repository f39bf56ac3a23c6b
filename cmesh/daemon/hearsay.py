"""What workers said of unfinished tasks that is stored nowhere: for display and for retries."""

from dataclasses import dataclass
from datetime import datetime

from cmesh.clock import Clock
from cmesh.errors import TaskNotFound
from cmesh.model import TaskId
from cmesh.protocol.link_messages import Failure

__all__ = ["Hearsay", "Note"]


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

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
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
        return True

    def settle(self, task_id: TaskId) -> None:
        """Forget what kept a task: it goes on."""
        self._notes.pop(task_id, None)

    def drop(self, task_id: TaskId) -> None:
        """Forget all that was said of a task."""
        self._notes.pop(task_id, None)
        self._heard.pop(task_id, None)
        self._left.pop(task_id, None)
