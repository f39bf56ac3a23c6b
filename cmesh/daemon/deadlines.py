"""Tasks by the time they are due, so that a tick looks at those alone. Pure."""

import heapq
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from cmesh.model import TaskId

__all__ = ["Deadlines"]

At = TypeVar("At", datetime, float)
"""A moment of the wall clock, or seconds of the monotonic one."""

SLACK = 1_000
"""Entries of tasks that have ended, beyond which they are swept out."""


class Deadlines(Generic[At]):
    """A heap of task ids; what has ended meanwhile is left in it until it is in the way."""

    def __init__(self, alive: Callable[[TaskId], bool]) -> None:
        """Make it; `alive` says whether a task must still be looked at when it is due."""
        self._alive = alive
        self._heap: list[tuple[At, TaskId]] = []
        self._swept = 0

    def add(self, task_id: TaskId, at: At) -> None:
        """Note when a task is due."""
        heapq.heappush(self._heap, (at, task_id))
        # A peer may name the last day of time: what has ended must not wait for it.
        if len(self._heap) > 2 * self._swept + SLACK:
            self._heap = [entry for entry in self._heap if self._alive(entry[1])]
            heapq.heapify(self._heap)
            self._swept = len(self._heap)

    def due(self, now: At) -> list[TaskId]:
        """Take out the living tasks that are due; who must look again at one adds it again."""
        found: list[TaskId] = []
        while self._heap and self._heap[0][0] <= now:
            _, task_id = heapq.heappop(self._heap)
            if self._alive(task_id):
                found.append(task_id)
        return found
