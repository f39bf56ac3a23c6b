"""Finding the task that a call means, waiting for its news, and showing it."""

import asyncio
import contextlib
from collections.abc import Callable

from cmesh.daemon import overview
from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import Context
from cmesh.daemon.core import Daemon
from cmesh.daemon.views import state_of, task_view
from cmesh.errors import TaskNotFound
from cmesh.model import TaskId, TaskState
from cmesh.store.records import TaskSnapshot

__all__ = ["Lookup"]

AMBIGUOUS_SHOWN = 5
"""How many of the tasks are named that a part of an id stands for."""


class Lookup:
    """The tasks of one daemon, as local callers see them; changes none."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def waited(self, context: Context, task_id: TaskId, wait_s: float) -> TaskView:
        """Return a task once it has ended, or as it is after `wait_s`; its asker is told."""
        task = await self.until(task_id, lambda now: now.terminal, wait_s)
        self._daemon.twins.told(context.session, [task])
        return await self.view(task)

    async def until(
        self, task_id: TaskId, done: Callable[[TaskSnapshot], bool], wait_s: float
    ) -> TaskSnapshot:
        """Return the task once `done` says so, or as it is after `wait_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    changed = self._daemon.news.next(task_id)
                    try:
                        task = await self.task(task_id)
                        if done(task):
                            return task
                        await changed
                    finally:
                        changed.cancel()
        return await self.task(task_id)

    async def task(self, reference: str) -> TaskSnapshot:
        """Find a task by its id, or an unambiguous start or end of it.

        Raises:
            TaskNotFound: none, or more than one.
        """
        found = await self._daemon.store.find_by_prefix(reference)
        if len(found) > 1:
            ids = ", ".join(found[:AMBIGUOUS_SHOWN])
            more = len(found) - AMBIGUOUS_SHOWN
            others = f" and {more} more" if more > 0 else ""
            raise TaskNotFound(
                f"`{reference}` stands for {len(found)} tasks: {ids}{others}",
                hint="give more of the id; its end differs most",
            )
        task = await self._daemon.store.task(found[0]) if found else None
        if task is None:
            raise TaskNotFound(f"no task `{reference}` is known here")
        return task

    def state(self, task: TaskSnapshot) -> TaskState:
        """Return the state that a task has for its asker."""
        elsewhere = self._daemon.caller.elsewhere(task.record.task_id)
        return state_of(task, elsewhere=elsewhere)

    async def view(self, task: TaskSnapshot) -> TaskView:
        """Return a task as it is shown."""
        now = self._daemon.settings.clock.now()
        return task_view(task, now=now, knowledge=await overview.knowledge(self._daemon, task))
