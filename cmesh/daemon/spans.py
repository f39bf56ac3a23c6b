"""Traces: what of a call and of an ended task is one span, from rows alone. Pure.

A span's id is made of the task's, so each side knows the ids of the other without a word about
them, and a daemon that restarts makes the same spans. Names and numbers only: the data of a span is
that of the log's line, which holds no text.

The traceparent that a task is sent with names the caller's span of the task as its parent (W3C
Trace Context); the worker's span of it is the child of that.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cmesh.daemon.answers import GroupView, TaskView
from cmesh.daemon.arguments import Context
from cmesh.daemon.chains import parent_of
from cmesh.daemon.summaries import of_task
from cmesh.model import Direction, TaskState
from cmesh.protocol.trace import parent_id, trace_id
from cmesh.store.records import TaskSnapshot
from cmesh.text import one_line

__all__ = ["Span", "of_call", "of_ended"]

_WELL = frozenset({TaskState.SUCCEEDED, TaskState.WAITING_INPUT})
_ID_BYTES = 8
_WORD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span: ids in hex, times in UTC; `parent` empty = the first of its trace."""

    name: str
    trace: str
    id: str
    parent: str
    begin: datetime
    end: datetime
    kind: Literal["server", "client", "internal"] = "internal"
    failed: bool = False
    data: Mapping[str, object] = field(default_factory=dict[str, object])


def of_call(
    context: Context,
    name: str,
    view: TaskView | GroupView,
    header: str,
    times: tuple[datetime, datetime],
) -> Span | None:
    """Return the span of a local call that has asked for tasks; None = it has asked for none anew.

    `name` is the operation, `header` the traceparent that the first of its tasks was sent with,
    `times` are when it began and ended.
    """
    begin, end = times
    first = view.tasks[0] if isinstance(view, GroupView) and view.tasks else view
    if isinstance(first, GroupView) or first.created_at < begin or not trace_id(header):
        return None
    asker = parent_of(context.session)
    given = parent_id(context.traceparent)
    return Span(
        name=f"cmesh {name}",
        trace=trace_id(header),
        id=_id("call", first.group or first.task_id),
        parent=given or (_id("run", asker) if asker else ""),
        begin=begin,
        end=end,
        kind="server",
        data={
            "agent": one_line(context.agent, _WORD),
            "tasks": len(view.tasks) if isinstance(view, GroupView) else 1,
        },
    )


def of_ended(task: TaskSnapshot) -> list[Span]:
    """Return the spans of a task on this side; none for one without a trace."""
    trace = trace_id(task.record.spec.traceparent)
    if not trace or task.ended_at is None:
        return []
    return _asked(task, trace) if task.record.direction is Direction.OUT else _worked(task, trace)


def _asked(task: TaskSnapshot, trace: str) -> list[Span]:
    record, own = task.record, parent_id(task.record.spec.traceparent)
    group = record.selection.group if record.selection else ""
    spans = [
        _span(task, trace, "cmesh task", own, _id("call", group or record.task_id), kind="client")
    ]
    if task.sent_at is not None and task.taken_at is not None:
        link = _id("link", record.task_id)
        times = (task.sent_at, task.taken_at)
        spans.append(_part(task, trace, "cmesh link", link, own, times))
    return spans


def _worked(task: TaskSnapshot, trace: str) -> list[Span]:
    task_id, ended = task.record.task_id, task.ended_at or task.state_ts
    own = _id("work", task_id)
    sent = parent_id(task.record.spec.traceparent)
    spans = [_span(task, trace, "cmesh work", own, sent, kind="server")]
    waited = (task.created_at, task.started_at or ended)
    spans.append(_part(task, trace, "cmesh queue", _id("queue", task_id), own, waited))
    if task.started_at is not None:
        times = (task.started_at, ended)
        spans.append(_part(task, trace, "cmesh run", _id("run", task_id), own, times))
    return spans


def _span(
    task: TaskSnapshot,
    trace: str,
    name: str,
    own: str,
    parent: str,
    *,
    kind: Literal["server", "client"],
) -> Span:
    return Span(
        name=name,
        trace=trace,
        id=own,
        parent=parent,
        begin=task.created_at,
        end=max(task.created_at, task.ended_at or task.state_ts),
        kind=kind,
        failed=task.public_state not in _WELL,
        data={key: value for key, value in of_task(task).items() if key != "trace"},
    )


def _part(
    task: TaskSnapshot,
    trace: str,
    name: str,
    own: str,
    parent: str,
    times: tuple[datetime, datetime],
) -> Span:
    exit_code = task.result.exit_code if task.result else None
    data: dict[str, object] = {"task": task.record.task_id}
    if name == "cmesh run" and exit_code is not None:
        data |= {"exit": exit_code, "containment": task.containment, "tier": task.enforcement}
    begin, end = times
    return Span(
        name=name,
        trace=trace,
        id=own,
        parent=parent,
        begin=begin,
        end=max(begin, end),
        failed=name == "cmesh run" and bool(exit_code),
        data={key: value for key, value in data.items() if value != ""},
    )


def _id(part: str, of: str) -> str:
    return hashlib.sha256(f"{part} {of}".encode()).digest()[:_ID_BYTES].hex()
