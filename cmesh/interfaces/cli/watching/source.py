"""Where a watcher has it from: a look at the daemon after each change there, over its restarts.

No change is told twice and none is left out: each task has a cursor, which a new connection
goes on from.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

from cmesh import __version__
from cmesh.clock import Clock
from cmesh.daemon.answers import StatusView, TaskView
from cmesh.daemon.arguments import TaskArguments, TasksArguments
from cmesh.daemon.changes import ChangesArguments
from cmesh.errors import (
    CmeshError,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonRestarting,
    DaemonTimeout,
    TaskNotFound,
)
from cmesh.interfaces.cli.watching.board import KEPT, Board, Change
from cmesh.interfaces.client import ControlClient
from cmesh.model import ENDED, TaskState

__all__ = ["Away", "Look", "Watcher"]

LOOK_LEAST_S = 0.25
"""Between two looks, however much happens; a change after a quiet moment is seen at once."""

STATUS_EVERY_S = 5.0
"""After which there is a look although nothing was told, for what only time changes."""

RETRY_S = 0.5

AWAY_LIMIT_S = 600.0
"""How long a watcher that nobody sits at waits for a daemon that is away."""

OPEN_LISTED = 200

LISTED = 50
"""Newest tasks in each look: those come from the daemon's memory, others from its database."""

PAGE_EVENTS = 200
LAST_EVENTS = 20
PAGES = 10
"""Pages of one task's events in one look, so that a flood does not hold up the others."""

_GONE = (DaemonNotRunning, DaemonRestarted, DaemonRestarting, DaemonTimeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the daemon found; `status` is at most some seconds old."""

    changes: list[Change]
    status: StatusView


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """The daemon does not answer; tried again after a moment. `since_s`: for how long."""

    error: CmeshError
    since_s: float


@dataclass(slots=True)
class Watcher:
    """Watches the tasks of the daemon behind a control socket.

    Attributes:
        limit_s: how long it waits for a daemon that is away; None = as long as it takes.
        board: what it knows so far.
    """

    path: Path
    clock: Clock
    limit_s: float | None = AWAY_LIMIT_S
    board: Board = field(default_factory=Board)
    # INVARIANT: what the board has taken in is here until it is handed out, so that a daemon
    # which goes away in the middle of a look costs no change.
    _moved: list[Change] = field(default_factory=list[Change])
    _events: list[Change] = field(default_factory=list[Change])

    def client(self) -> ControlClient:
        """Return a client for one call or a few."""
        return ControlClient(self.path, session="watch", agent=f"cmesh watch {__version__}")

    async def looks(self) -> AsyncGenerator[Look | Away]:
        """Look until the generator is closed.

        Raises:
            DaemonNotRunning: it was away for `limit_s`.
            CmeshError: the daemon answers, and refuses.
        """
        seen = self.clock.monotonic()
        while True:
            try:
                async with self.client() as client:
                    status, asked = await client.status(), self.clock.monotonic()
                    # INVARIANT: taken before the look, so that what changes during it is seen next.
                    mark = (await client.changes(ChangesArguments())).mark
                    while True:
                        await self._look(client)
                        seen = self.clock.monotonic()
                        yield Look(changes=self._taken(), status=status)
                        await asyncio.sleep(LOOK_LEAST_S)
                        waits = ChangesArguments(since=mark, wait_s=STATUS_EVERY_S)
                        mark = (await client.changes(waits)).mark
                        if self.clock.monotonic() - asked > STATUS_EVERY_S:
                            status, asked = await client.status(), self.clock.monotonic()
            except _GONE as error:
                away_s = self.clock.monotonic() - seen
                if self.limit_s is not None and away_s > self.limit_s:
                    raise
                yield Away(error=error, since_s=away_s)
                await asyncio.sleep(RETRY_S)

    async def _look(self, client: ControlClient) -> None:
        open_ones = await client.list_tasks(TasksArguments(state="open", limit=OPEN_LISTED))
        newest = await self._newest(client)
        views = {view.task_id: view for view in (*open_ones.tasks, *newest)}
        for task_id in self.board.missing(views.values()):
            try:
                views[task_id] = await client.get_task(TaskArguments(task_id=task_id, events=0))
            except TaskNotFound:  # retention took it
                continue
        first = not self.board.begun
        self._moved += self.board.take(list(views.values()))
        if first:
            await self._last_words(client)
        for task_id in self.board.behind():
            await self._read(client, task_id)

    async def _newest(self, client: ControlClient) -> list[TaskView]:
        """Return the newest tasks: back to one that is known, or as many as a board keeps."""
        if self.board.begun:
            found = await client.list_tasks(TasksArguments(limit=LISTED))
            if not found.more or any(view.task_id in self.board.rows for view in found.tasks):
                return found.tasks
        return (await client.list_tasks(TasksArguments(limit=KEPT))).tasks

    async def _last_words(self, client: ControlClient) -> None:
        """Find out what each unfinished task did last; it is shown, and is no change."""
        for row in self.board.rows.values():
            if row.view.state not in ENDED and row.view.last_event:
                arguments = TaskArguments(task_id=row.view.task_id, events=LAST_EVENTS)
                for event in (await client.get_task(arguments)).events:
                    if event.seq <= row.cursor:
                        row.take(event)

    async def _read(self, client: ControlClient, task_id: str) -> None:
        """Take in the events of a task that were not told yet."""
        row = self.board.rows[task_id]
        for _page in range(PAGES):
            page = await _page_of(client, task_id, row.cursor)
            told = self.board.tell(task_id, page.events)
            self._events += told
            if not told:
                self.board.skip(task_id)
            if row.cursor >= row.view.last_event:
                return

    def _taken(self) -> list[Change]:
        """Hand out what has happened, in the order in which it did."""
        changes = _in_order(self._moved, self._events)
        self._moved, self._events = [], []
        return changes


async def _page_of(client: ControlClient, task_id: str, after: int) -> TaskView:
    # With a state that no task stays in, events come from `after` on, also from the first.
    return await client.get_task(
        TaskArguments(
            task_id=task_id,
            after_event=after,
            events=PAGE_EVENTS,
            known_state=TaskState.SUBMITTING,
        )
    )


def _in_order(moved: list[Change], events: list[Change]) -> list[Change]:
    """Return what happened in the order in which it did: a task's end comes after its events."""
    ends = [one for one in moved if one.kind == "state" and one.task.state in ENDED]
    return [one for one in moved if one not in ends] + events + ends
