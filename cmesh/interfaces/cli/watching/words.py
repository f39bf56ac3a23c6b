"""What a watcher shows, in words: cells of the list, lines of changes, facts of an approval. Pure.

All that others wrote is made harmless here: what a terminal would obey, and marks that turn the
reading direction, are written out as `<U+202E>`.
"""

import json
import shlex
from collections.abc import Mapping
from datetime import datetime

from cmesh.daemon.answers import EventView, StatusView, TaskView, WillRunView
from cmesh.daemon.event_lines import event_line
from cmesh.interfaces.cli.output import duration, moment
from cmesh.interfaces.cli.watching.board import Change, Line, Row, is_pending
from cmesh.model import ENDED, Direction, TaskState
from cmesh.text import one_line, reveal

__all__ = [
    "COLUMNS",
    "as_json",
    "as_line",
    "asked_for",
    "cells",
    "cost_words",
    "event_words",
    "facts",
    "headline",
    "matches",
    "short",
    "state_words",
]

COLUMNS = ("ID", "STATE", "PEER", "RUNNER", "TIME", "COST", "LAST")
"""`PEER` has an arrow in front: `>` handed out to it, `<` worked on here for it."""

SHORT = 6
_NAME = 20
_LAST = 160
_LINE = 400
_STATES = {
    TaskState.WAITING_INPUT: "asks back",
    TaskState.CANCELLING: "cancelling",
    TaskState.TIMED_OUT: "timed out",
}


def short(view: TaskView) -> str:
    """Return the end of a task's id, where ids differ most; commands take it."""
    return view.task_id[-SHORT:]


def state_words(view: TaskView) -> str:
    """Return a task's state as a person at this machine means it, in 12 characters at most."""
    if view.state is TaskState.WAITING_APPROVAL:
        return "ASKS YOU" if is_pending(view) else "asks there"
    return _STATES.get(view.state, view.state.value)


def cells(row: Row, now: datetime) -> list[str]:
    """Return a row of the list, in the order of `COLUMNS`."""
    view = row.view
    arrow = ">" if view.direction is Direction.OUT else "<"
    return [
        short(view),
        state_words(view),
        f"{arrow}{_one(view.peer, _NAME)}",
        _one(view.runner.removeprefix("command:"), _NAME),
        duration(_age_s(view, now)),
        cost_words(row),
        _last(row),
    ]


def headline(status: StatusView | None, rows: Mapping[str, Row]) -> str:
    """Return the first line: which node this is, what goes on, and what waits for a person."""
    views = [row.view for row in rows.values()]
    running = sum(view.state is TaskState.RUNNING for view in views)
    going = sum(view.state not in ENDED for view in views)
    waiting = sum(is_pending(view) for view in views)
    parts = [f"{running} running", f"{going} unfinished"]
    if waiting:
        parts.append(f"{waiting} WAIT{'S' if waiting == 1 else ''} FOR YOU (a)")
    if status is not None:
        phase = "" if status.phase == "up" else f" ({status.phase})"
        parts.insert(0, f"{_one(status.node.split('.')[0] or 'this node', _NAME)}{phase}")
        parts.append(f"{status.links} link{'' if status.links == 1 else 's'}")
    return " · ".join(parts)


def matches(view: TaskView, words: str, *, unfinished: bool) -> bool:
    """Say whether a task is to be shown: it has each of the words in what is known of it."""
    if unfinished and view.state in ENDED - {TaskState.WAITING_INPUT}:
        return False
    known = " ".join(
        (
            view.task_id, view.state.value, state_words(view), view.peer, view.runner,
            view.profile.value, view.directory, view.prompt, view.code, view.group,
        )
    ).lower()  # fmt: skip
    return all(word in known for word in words.lower().split())


def event_words(event: EventView, limit: int = _LINE) -> str:
    """Return an event in one line, its kind in front."""
    shown = event.model_copy(
        update={"text": reveal(event.text), "data": {k: _shown(v) for k, v in event.data.items()}}
    )
    return ": ".join(filter(None, (_one(event.kind, _NAME), event_line(shown, limit))))


def as_line(change: Change) -> str:
    """Return a change in one line without control characters."""
    view = change.task
    head = f"{_at(change)}  {view.task_id}  {_one(view.peer, 63)}"
    if change.event is not None:
        return f"{head}  {event_words(change.event)}"
    was = f" (was {change.was.replace('_', ' ')})" if change.was else ""
    why = f": {_one(view.reason, _LINE)}" if view.reason else ""
    code = f" [{view.code}]" if view.code else ""
    way = "handed out" if view.direction is Direction.OUT else "worked on here"
    known = f"{way}, {_one(view.runner, 63)}, " if change.kind == "task" else ""
    return f"{head}  {known}{view.state.replace('_', ' ')}{was}{why}{code}"


def as_json(change: Change) -> str:
    """Return a change as one line of JSON, in the form of `Line`.

    Every character outside of ASCII is escaped, so that nothing in it can steer a terminal.
    """
    body = Line.of(change).model_dump(mode="json", exclude_unset=True)
    return json.dumps(body).replace("\x7f", "\\u007f")


def asked_for(view: TaskView) -> list[tuple[str, str]]:
    """Return all that a yes would start, for a person who judges it; nothing is cut away.

    A value may have lines: whoever shows it keeps them beside its name.
    """
    run = view.will_run or WillRunView(obstacle="what it would run is not known; look again")
    return [
        ("asks", f"{reveal(view.peer)} ({reveal(view.node_id)})"),
        ("task", view.task_id),
        ("runs", reveal(shlex.join(run.argv))),
        ("in", reveal(run.directory or view.directory)),
        ("under", reveal(run.profile or view.profile.value)),
        ("narrowed", reveal("; ".join(run.narrowed))),
        ("changes", reveal(run.changes)),
        ("beside", reveal(", ".join(run.bind_ignored))),
        ("is told", reveal(run.preface)),
        ("answers", reveal(run.answer)),
        ("then runs", reveal(shlex.join(run.accept))),
        ("hands over", reveal(", ".join(run.artifacts))),
        ("for", duration(run.runtime_s) if run.runtime_s else ""),
        ("rule", reveal(view.rule or "")),
        ("expires", moment(view.expires_at)),
        ("cannot", reveal(run.obstacle)),
        ("prompt", reveal(view.prompt)),
    ]


def facts(row: Row) -> str:
    """Return the line above a task's events: which it is, and what it was asked."""
    view = row.view
    reason = f" · {_one(view.reason, _LAST)}" if view.reason else ""
    code = f" [{view.code}]" if view.code else ""
    return (
        f"{view.task_id} · {state_words(view)}{reason}{code} · {view.profile.value}"
        f" · {_one(view.directory, 80)} · {_one(view.prompt, _LAST)}"
    )


def _age_s(view: TaskView, now: datetime) -> float:
    """Return how long a task has run, or has waited; of one that ended, how long it took."""
    if view.ended_at is not None or view.state in ENDED:
        return view.elapsed_s
    return max(0.0, (now - (view.started_at or view.created_at)).total_seconds())


def cost_words(row: Row) -> str:
    """Return what a task has cost so far, as its agent tells, in 8 characters; empty = not told."""
    usd = row.view.cost_usd if row.view.cost_usd is not None else row.cost_usd
    tokens = row.view.tokens if row.view.tokens is not None else row.tokens
    if usd is not None:
        return f"${usd:.2f}"
    if tokens is None:
        return ""
    return f"{tokens}tk" if tokens < 10_000 else f"{tokens / 1000:.0f}ktk"


def _last(row: Row) -> str:
    view = row.view
    if view.state in ENDED and (view.question or view.reason or view.verdict):
        return _one(view.question or view.reason or view.verdict, _LAST)
    if row.last is not None:
        return event_words(row.last, _LAST)
    return _one(view.reason or view.prompt, _LAST)


def _at(change: Change) -> str:
    """Return when it happened, by the clock that told it; a state has none of its own."""
    view, event = change.task, change.event
    at = event.ts if event else view.ended_at or view.started_at or view.created_at
    return moment(at)


def _one(text: str, limit: int) -> str:
    return one_line(reveal(text), limit)


def _shown(value: object) -> object:
    return reveal(value) if isinstance(value, str) else value
