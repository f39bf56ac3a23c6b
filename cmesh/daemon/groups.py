"""The tasks that one call asked of several peers: found, waited for, shown side by side, ended."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from cmesh.daemon.answers import (
    GroupView,
    RefusedView,
    TasksView,
    TaskView,
)
from cmesh.daemon.arguments import (
    Context,
    FanOutArguments,
    GroupArguments,
    TasksArguments,
)
from cmesh.daemon.asked import same_task
from cmesh.daemon.core import Daemon
from cmesh.daemon.lookup import Lookup
from cmesh.errors import CmeshError, TaskConflict, TaskNotFound
from cmesh.model import ENDED, TERMINAL, Direction, NodeId, TaskId, TaskState
from cmesh.store.records import Refused, Selection, StepRecord, TaskSnapshot
from cmesh.text import cut, one_line, scrub

__all__ = ["Groups"]

ENDS = ENDED | {TaskState.UNKNOWN}
"""States after which waiting longer is not promised to bring news."""

GROUP_CANCELLED = "group_cancelled"
"""Fact of one task of a group: nobody else is asked any more."""

REASON_CHARACTERS = 500


class Groups:
    """The groups of one daemon's own tasks."""

    def __init__(self, daemon: Daemon, lookup: Lookup) -> None:
        self._daemon = daemon
        self._lookup = lookup

    def ids(self, reference: str) -> tuple[str, list[TaskId]]:
        """Return a group's name and its own tasks.

        Raises:
            TaskNotFound: none is named so, or several are.
        """
        found = self._daemon.store.groups(reference)
        if len(found) > 1:
            names = ", ".join(sorted(found)[:5])
            raise TaskNotFound(f"`{reference}` stands for {len(found)} groups: {names}")
        if not found:
            raise TaskNotFound(
                f"no group `{reference}` is known here", hint="run `cmesh tasks`: column GROUP"
            )
        return next(iter(found.items()))

    async def selection(self, group: str) -> Selection | None:
        """Return what a group was asked with; None = there is none of exactly this name."""
        ids = self._daemon.store.groups(group).get(group)
        task = await self._daemon.store.task(ids[0]) if ids else None
        return task.record.selection if task is not None else None

    async def tasks(self, reference: str) -> tuple[str, Selection, list[TaskSnapshot]]:
        """Return a group's name, what it was asked with, and its tasks in the order asked.

        Raises:
            TaskNotFound: none is named so, or several are.
        """
        group, ids = self.ids(reference)
        own = [await self._lookup.task(task_id) for task_id in ids]
        selection = own[0].record.selection or Selection()
        also = [await self._lookup.task(task_id) for task_id in selection.also]
        order = {peer_id: place for place, peer_id in enumerate(selection.peers)}
        tasks = sorted([*own, *also], key=lambda one: order.get(one.record.peer_id, len(order)))
        return group, selection, tasks

    async def settled(self, selection: Selection) -> set[NodeId]:
        """Return the peers of a group about which nothing is left to do: asked, or refused.

        INVARIANT: of a group that was cancelled that is all, also who was not asked before a crash.
        """
        _group, _selection, tasks = await self.tasks(selection.group)
        if _is_cancelled(tasks):
            return set(selection.peers)
        asked = {task.record.peer_id for task in tasks}
        return asked | {refused.node_id for refused in selection.refused}

    async def require_same(
        self, group: str, arguments: FanOutArguments, places: Mapping[NodeId, str]
    ) -> None:
        """Refuse a call that uses a group's key for something else.

        `places` are the directories of peers that have one of their own.

        Raises:
            TaskConflict: it does.
        """
        _group, _selection, tasks = await self.tasks(group)
        for task in tasks:
            place = places.get(task.record.peer_id) or arguments.directory
            spec = task.record.spec
            if not same_task(spec, arguments) or spec.directory != place:
                raise TaskConflict("the idempotency key belongs to a group with another task")

    async def get(self, context: Context, arguments: GroupArguments) -> GroupView:
        """Return a group, waiting for the end of all, or of one more than were known."""
        return await self.waited(
            context, arguments.group, arguments.wait_s, known_ended=arguments.known_ended
        )

    async def waited(
        self, context: Context, reference: str, wait_s: float, *, known_ended: int | None = None
    ) -> GroupView:
        """Return a group once all its tasks have ended, or as it is after `wait_s`.

        With `known_ended` as soon as another number of them has.

        Raises:
            TaskNotFound: none is named so, or several are.
        """
        group, selection, tasks = await self.tasks(reference)

        def done(now: Sequence[TaskSnapshot]) -> bool:
            ended = self._ended(now)
            return ended == len(now) or (known_ended is not None and ended != known_ended)

        tasks = await self._until([task.record.task_id for task in tasks], done, wait_s)
        self._daemon.twins.told(context.session, tasks)
        views = [await self._lookup.view(task) for task in tasks]
        return GroupView(
            group=group,
            asked=len(selection.peers) or len(views),
            ended=self._ended(tasks),
            succeeded=sum(view.state is TaskState.SUCCEEDED for view in views),
            done=self._ended(tasks) == len(tasks),
            chosen=cut(scrub(selection.chosen), 4_000),
            tasks=[_marked(view, selection) for view in views],
            refused=[_refused(one) for one in (*selection.refused, *_never(selection, tasks))],
        )

    async def listed(self, context: Context, arguments: TasksArguments) -> TasksView:
        """Return the tasks of a group as a list of tasks, in the order asked.

        Raises:
            TaskNotFound: none is named so, or several are.
        """
        view = await self.waited(context, arguments.group, 0)
        wanted = arguments.state
        shown = [
            task
            for task in view.tasks
            if wanted == "any"
            or (task.state not in TERMINAL if wanted == "open" else task.state is wanted)
        ]
        return TasksView(tasks=shown[: arguments.limit], more=len(shown) > arguments.limit)

    async def cancel(self, context: Context, reference: str, reason: str) -> GroupView:
        """Ask for the end of each task of a group that has not ended, and ask no more peers.

        Raises:
            TaskNotFound: none is named so, or several are.
            CmeshError: for one of them it could not be stored; the others were asked.
        """
        group, selection, tasks = await self.tasks(reference)
        # First: a call that is repeated from now on must find it.
        if not _is_cancelled(tasks):
            own = next(task for task in tasks if task.record.task_id not in selection.also)
            await self._daemon.store.commit([_cancelled(own)])
        failed: CmeshError | None = None
        for task in tasks:
            if task.terminal:
                continue
            try:
                await self._daemon.caller.cancel(task, reason or "its group was cancelled")
            except CmeshError as error:
                failed = error
        if failed is not None:
            raise failed
        return await self.waited(context, group, 0)

    def _ended(self, tasks: Sequence[TaskSnapshot]) -> int:
        return sum(self._lookup.state(task) in ENDS for task in tasks)

    async def _until(
        self,
        ids: Sequence[TaskId],
        done: Callable[[Sequence[TaskSnapshot]], bool],
        wait_s: float,
    ) -> list[TaskSnapshot]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    changes = [self._daemon.news.next(task_id) for task_id in ids]
                    try:
                        tasks = [await self._lookup.task(task_id) for task_id in ids]
                        if done(tasks):
                            return tasks
                        await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for change in changes:
                            change.cancel()
        return [await self._lookup.task(task_id) for task_id in ids]


def _cancelled(task: TaskSnapshot) -> StepRecord:
    return StepRecord(
        task_id=task.record.task_id, direction=Direction.OUT, kind="fact", name=GROUP_CANCELLED
    )


def _is_cancelled(tasks: Sequence[TaskSnapshot]) -> bool:
    return any(GROUP_CANCELLED in task.facts for task in tasks)


def _never(selection: Selection, tasks: Sequence[TaskSnapshot]) -> list[Refused]:
    """Return the peers of a cancelled group that had not been asked, and never will be."""
    if not _is_cancelled(tasks):
        return []
    told = {task.record.peer_id for task in tasks} | {one.node_id for one in selection.refused}
    why = "the group was cancelled before it was asked"
    return [
        Refused(peer=peer_id, node_id=peer_id, code="cancelled", reason=why)
        for peer_id in selection.peers
        if peer_id not in told
    ]


def _marked(view: TaskView, selection: Selection) -> TaskView:
    """Say of a task of another call that it stands for an equal one."""
    own = view.task_id not in selection.also
    return view if own else view.model_copy(update={"duplicate_of": view.task_id})


def _refused(one: Refused) -> RefusedView:
    return RefusedView(peer=one.peer, code=one.code, reason=one_line(one.reason, REASON_CHARACTERS))
