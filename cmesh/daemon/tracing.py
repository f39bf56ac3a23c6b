"""A call that asks for tasks, timed for its trace where somebody collects that."""

from collections.abc import Awaitable
from typing import TypeVar

from cmesh.daemon.answers import GroupView, TaskView
from cmesh.daemon.arguments import Context
from cmesh.daemon.core import Daemon
from cmesh.daemon.spans import of_call
from cmesh.model import TaskId

__all__ = ["traced"]

_V = TypeVar("_V", TaskView, GroupView)


async def traced(daemon: Daemon, context: Context, name: str, asked: Awaitable[_V]) -> _V:
    """Return what was asked for, and hand on the span of the call; a call that fails has none."""
    begin = daemon.settings.clock.now()
    view = await asked
    tasks = view.tasks if isinstance(view, GroupView) else [view]
    if daemon.trace is not None and tasks:
        task = await daemon.store.task(TaskId(tasks[0].task_id))
        header = task.record.spec.traceparent if task is not None else ""
        span = of_call(context, name, view, header, (begin, daemon.settings.clock.now()))
        if span is not None:
            daemon.trace(span)
    return view
