"""What a watcher knows of the tasks, and what of it changed. Pure: views and events in, changes out.

A task that was there before the watching begins is told once, as it is; what it did before is
no change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cmesh.daemon.answers import EventView, TaskView, View
from cmesh.model import TERMINAL, Direction, TaskState

__all__ = ["KEPT", "Board", "Change", "Line", "Row", "is_pending"]

KEPT = 200
"""Ended tasks on a board, the newest; their ids are made in the order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that happened to a task.

    Attributes:
        kind: `task` = it is seen for the first time; `state`; `event`.
        was: the state before; None for the other kinds.
        event: for the kind `event`.
    """

    kind: Literal["task", "state", "event"]
    task: TaskView
    was: TaskState | None = None
    event: EventView | None = None


class Line(View):
    """A change as `cmesh watch --json` prints it; a key that does not apply is left out.

    `state` is the one after the change, `was` the one before it. `task` is whole, as
    `cmesh show --json` has it, where it is seen for the first time or has another state; `event` is
    as `cmesh logs --json` has it.
    """

    change: Literal["task", "state", "event"]
    task_id: str
    peer: str
    state: TaskState
    was: TaskState | None = None
    task: TaskView | None = None
    event: EventView | None = None

    @classmethod
    def of(cls, change: Change) -> "Line":
        """Return the line of a change."""
        view = change.task
        fields: dict[str, object] = {} if change.event is not None else {"task": view}
        fields |= {"event": change.event} if change.event is not None else {}
        fields |= {"was": change.was} if change.was is not None else {}
        return cls.model_validate(
            {"change": change.kind, "task_id": view.task_id, "peer": view.peer, "state": view.state}
            | fields
        )


@dataclass(slots=True)
class Row:
    """A task on the board.

    Attributes:
        cursor: number of the newest event that was told.
        last: the newest event with words in it; None = none is known.
        cost_usd, tokens: of the run so far, as its agent tells; None = not told.
    """

    view: TaskView
    cursor: int
    last: EventView | None = None
    cost_usd: float | None = None
    tokens: int | None = None

    def take(self, event: EventView) -> None:
        """Take in what an event says of the task."""
        self.cursor = max(self.cursor, event.seq)
        if event.kind == "cost":
            self.cost_usd = _money(event.data.get("cost_usd"), self.cost_usd)
            told = [event.data.get(name) for name in ("tokens_in", "tokens_out")]
            self.tokens = sum(n for n in told if isinstance(n, int)) or self.tokens
        elif event.text.strip():
            self.last = event


@dataclass(slots=True)
class Board:
    """The tasks that are watched, by id.

    `begun`: the first look is over, so that a task which is new now has nothing to hide.
    """

    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    begun: bool = False

    def missing(self, views: Iterable[TaskView]) -> list[str]:
        """Return the unfinished tasks of the board that a list no longer has: how did they end?"""
        listed = {view.task_id for view in views}
        return [
            task_id
            for task_id, row in self.rows.items()
            if task_id not in listed and row.view.state not in TERMINAL
        ]

    def behind(self) -> list[str]:
        """Return the tasks with events that were not told yet."""
        return [task_id for task_id, row in self.rows.items() if row.view.last_event > row.cursor]

    def take(self, views: Sequence[TaskView]) -> list[Change]:
        """Take newer views of some tasks, and forget what ended long ago; events come by `tell`."""
        changes: list[Change] = []
        for view in sorted(views, key=lambda one: one.created_at):
            row = self.rows.get(view.task_id)
            if row is None:
                cursor = 0 if self.begun else view.last_event
                self.rows[view.task_id] = Row(view=view, cursor=cursor)
                changes.append(Change(kind="task", task=view))
                continue
            was, row.view = row.view.state, view
            if was != view.state:
                changes.append(Change(kind="state", task=view, was=was))
        over = sorted(one for one, row in self.rows.items() if row.view.state in TERMINAL)
        for task_id in over[:-KEPT]:
            del self.rows[task_id]
        self.begun = True
        return changes

    def tell(self, task_id: str, events: Iterable[EventView]) -> list[Change]:
        """Take a page of a task's events; those that were told are left out."""
        row = self.rows[task_id]
        changes: list[Change] = []
        for event in events:
            if event.seq > row.cursor:
                row.take(event)
                changes.append(Change(kind="event", task=row.view, event=event))
        return changes

    def skip(self, task_id: str) -> None:
        """Go on behind events that are no longer kept."""
        row = self.rows[task_id]
        row.cursor = max(row.cursor, row.view.last_event)


def is_pending(view: TaskView) -> bool:
    """Say whether a task waits for this machine's owner."""
    return view.state is TaskState.WAITING_APPROVAL and view.direction is Direction.IN


def _money(value: object, before: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) else before
