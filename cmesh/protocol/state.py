"""Steps of a task: which row of `cmesh.protocol.table` an event and the facts select.

Pure. The daemon applies one step at a time to a task: commit the writes, then send,
then act, then the next event. Nothing here waits, and nothing outside decides a step.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.model import TERMINAL, TaskState
from cmesh.protocol.facts import (
    ACCEPTED,
    INTENT,
    OPEN,
    QUEUED,
    RUNNING,
    SENT,
    STARTED,
    TERMINALS,
    UNKNOWN,
    WAITING,
    CallerFacts,
    WorkerFacts,
)
from cmesh.protocol.guards import CALLER_GUARDS, WORKER_GUARDS
from cmesh.protocol.happenings import CallerEvent, FromPeer, GotResult, Looked, WorkerEvent
from cmesh.protocol.row import REPORTED, SAME, Act, Row, Send, Write
from cmesh.protocol.table import CALLER, WORKER

__all__ = [
    "CALLER",
    "WORKER",
    "Act",
    "Row",
    "Send",
    "Step",
    "Write",
    "caller",
    "mcp_state",
    "public",
    "render_table",
    "worker",
]

Side = Literal["caller", "worker"]
Facts = TypeVar("Facts", CallerFacts, WorkerFacts)
Index = Mapping[tuple[str | None, type], list[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one event asks of one side.

    Attributes:
        row: the id of the row it comes from.
        next: the state afterwards; for an unknown id that stays unknown, empty.
        writes: one durable commit, made before anything is sent; `state` carries `next`.
        sends: values of `Send`, one message each.
        acts: values of `Act`.
    """

    row: str
    next: str
    writes: tuple[Write, ...] = ()
    sends: tuple[Send, ...] = ()
    acts: tuple[Act, ...] = ()


def caller(event: CallerEvent, facts: CallerFacts) -> Step:
    """Return the caller's step.

    Raises:
        RemoteProtocolError: the peer sent what cannot happen by the model; drop the link,
            keep the state.
        LocalProtocolError: this side asked for what cannot happen.
    """
    return _step(_CALLER_INDEX, CALLER_GUARDS, event, facts)


def worker(event: WorkerEvent, facts: WorkerFacts) -> Step:
    """Return the worker's step; raises as `caller` does."""
    return _step(_WORKER_INDEX, WORKER_GUARDS, event, facts)


def public(side: Side, state: str, facts: CallerFacts | WorkerFacts) -> TaskState:
    """Return the state that people and agents see.

    A caller knows more than its own state only by what the worker told (`progress`). That an
    agent that succeeded waits for input is said by the turns of its conversation, not here.
    """
    if state in TERMINALS:
        return TaskState(state)
    if isinstance(facts, WorkerFacts):
        cancelling = facts.cancel_wish and state in STARTED
        return TaskState.CANCELLING if cancelling else _SHOWN[side, state]
    if state == UNKNOWN or (facts.other_store and state in OPEN):
        return TaskState.UNKNOWN
    if facts.wish == "user":
        return TaskState.CANCELLING
    if state == ACCEPTED and facts.progress in _PROGRESS:
        return TaskState(facts.progress)
    return _SHOWN[side, state]


def mcp_state(
    state: TaskState,
) -> Literal["working", "input_required", "completed", "failed", "cancelled"]:
    """Return the one of MCP's five task states (2025-11-25) that shows `state`."""
    if state in {TaskState.WAITING_APPROVAL, TaskState.WAITING_INPUT}:
        return "input_required"
    if state not in TERMINAL:
        return "working"
    if state is TaskState.SUCCEEDED:
        return "completed"
    return "cancelled" if state is TaskState.CANCELLED else "failed"


def render_table() -> str:
    """Return both tables as Markdown, for the docs."""
    parts: list[str] = []
    for title, rows in (("Caller", CALLER), ("Worker", WORKER)):
        parts += [f"### {title}", "", _HEAD, _RULE, *(_render(row) for row in rows), ""]
    return "\n".join(parts)


def _step(
    index: Index,
    guards: Mapping[str, Callable[[object, Facts], bool]],
    event: CallerEvent | WorkerEvent,
    facts: Facts,
) -> Step:
    for row in index.get((facts.state, type(event)), ()):
        if all(guards[name](event, facts) for name in row.guard):
            return _apply(row, event, facts.state)
    what = f"`{event.label}` cannot happen to a task in state `{facts.state or 'none'}`"
    if isinstance(event, FromPeer):
        raise RemoteProtocolError(f"the peer broke the task protocol: {what}")
    raise LocalProtocolError(what)


def _apply(row: Row, event: object, state: str | None) -> Step:
    following = _following(row, event, state)
    writes = tuple(Write("state", following) if w.kind == "state" else w for w in row.write)
    return Step(row=row.id, next=following, writes=writes, sends=row.out, acts=row.act)


def _following(row: Row, event: object, state: str | None) -> str:
    if row.next == SAME:
        return state or ""
    if row.next != REPORTED:
        return row.next
    reported = event.state if isinstance(event, GotResult) else None
    return reported or (isinstance(event, Looked) and event.result) or ""


def _render(row: Row) -> str:
    cells = (
        row.id,
        _states(row.states),
        str(getattr(row.event, "label", "")),
        " and ".join(row.guard) or "-",
        ", ".join(w.name or w.kind for w in row.write) or "-",
        ", ".join((*row.out, *(f"*{act}*" for act in row.act))) or "-",
        row.next,
    )
    return "| " + " | ".join(cells) + " |"


def _states(states: tuple[str | None, ...]) -> str:
    """Return the states with all terminal ones as one word."""
    left = [state or "-" for state in states]
    if set(TERMINALS) <= set(left):
        left = [state for state in left if state not in TERMINALS] + ["terminal"]
    return ", ".join(left)


def _indexed(rows: tuple[Row, ...]) -> Index:
    index: dict[tuple[str | None, type], list[Row]] = defaultdict(list)
    for row in rows:
        for state in row.states:
            index[state, row.event].append(row)
    return dict(index)


_CALLER_INDEX: Final = _indexed(CALLER)
_WORKER_INDEX: Final = _indexed(WORKER)

_HEAD = "| # | state | event | guard | durable write | message out, *act* | next |"
_RULE = "|---|---|---|---|---|---|---|"

_PROGRESS = {
    TaskState.QUEUED.value,
    TaskState.WAITING_APPROVAL.value,
    TaskState.RUNNING.value,
}

_SHOWN: Final[Mapping[tuple[Side, str], TaskState]] = {
    ("caller", QUEUED): TaskState.SUBMITTING,
    ("caller", SENT): TaskState.SUBMITTING,
    ("caller", ACCEPTED): TaskState.QUEUED,
    ("worker", ACCEPTED): TaskState.QUEUED,
    ("worker", WAITING): TaskState.WAITING_APPROVAL,
    ("worker", INTENT): TaskState.QUEUED,
    ("worker", RUNNING): TaskState.RUNNING,
}
