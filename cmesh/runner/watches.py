"""What wakes the worker for its tasks: a pipe for a shim's news, a pidfd for its end.

Says only "look"; what a task did stands in its files. Linux: pidfds.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from cmesh.model import TaskId
from cmesh.runner.shim_processes import Process, stat_of

__all__ = ["Watches"]

_READ_BYTES = 512


class Watches:
    """The open watches of one supervisor; used from one event loop.

    `changed` is called in the loop, with the task to look at.
    """

    def __init__(self, changed: Callable[[TaskId], None]) -> None:
        self._changed = changed
        self._pipes: dict[TaskId, int] = {}
        self._owners: dict[TaskId, int] = {}

    @property
    def piped(self) -> tuple[TaskId, ...]:
        """Return the tasks whose pipe is watched: a shim has it open, or may open it yet."""
        return tuple(self._pipes)

    def is_piped(self, task_id: TaskId) -> bool:
        """Return whether a shim has the task's pipe open, or may open it yet."""
        return task_id in self._pipes

    def pipe(self, task_id: TaskId, path: Path) -> None:
        """Watch the pipe in which shims leave "look again"; may be repeated.

        Raises:
            OSError: there is none.
        """
        if task_id in self._pipes:
            return
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._pipes[task_id] = fd
        asyncio.get_running_loop().add_reader(fd, self._woken, task_id, fd)

    def unpipe(self, task_id: TaskId) -> None:
        """Watch the task's pipe no more."""
        _close(self._pipes.pop(task_id, -1))

    def follow(self, task_id: TaskId, owner: Process, pipe: Path) -> bool:
        """Watch a task's owner, its news and its end; may be repeated. False when it has ended."""
        if task_id in self._owners:
            return True
        with contextlib.suppress(OSError):  # a pipe that somebody deleted costs news, not the end
            self.pipe(task_id, pipe)
        if self._follow_end(task_id, owner):
            return True
        self.unpipe(task_id)
        return False

    def drop(self, task_id: TaskId) -> None:
        """Watch nothing of the task."""
        self.unpipe(task_id)
        _close(self._owners.pop(task_id, -1))

    def close(self) -> None:
        """Watch nothing."""
        for task_id in {*self._pipes, *self._owners}:
            self.drop(task_id)

    def _follow_end(self, task_id: TaskId, owner: Process) -> bool:
        try:
            fd = os.pidfd_open(owner[0])
        except OSError:
            return False
        # The start time is read after the handle exists, so a reused pid is noticed.
        stat = stat_of(owner[0])
        if stat is None or stat[2] != owner[1]:
            os.close(fd)
            return False
        self._owners[task_id] = fd
        asyncio.get_running_loop().add_reader(fd, self._ended, task_id)
        return True

    def _woken(self, task_id: TaskId, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            # The end of the pipe: the last shim that had it open is gone, or about to be.
            if not os.read(fd, _READ_BYTES):
                self.unpipe(task_id)
        self._changed(task_id)

    def _ended(self, task_id: TaskId) -> None:
        # The kernel tells of an end after it has closed the process's files and locks.
        _close(self._owners.pop(task_id))
        self._changed(task_id)


def _close(fd: int) -> None:
    if fd >= 0:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
