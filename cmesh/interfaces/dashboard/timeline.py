"""A task's way through its states in words, with what each rests on. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime

from cmesh.daemon.answers import TaskView
from cmesh.daemon.history_calls import RecordView, StepView
from cmesh.model import Direction
from cmesh.protocol.facts import ACCEPTED, INTENT, QUEUED, SENT, WAITING

__all__ = ["Moment", "timeline"]

_CALLER = {
    QUEUED: ("submitting", "not sent yet"),
    SENT: ("submitting", "may have been sent"),
    ACCEPTED: ("queued", "its worker has it"),
}
_WORKER = {
    ACCEPTED: ("queued", "taken"),
    WAITING: ("waiting_approval", "waits for this machine's owner"),
    INTENT: ("queued", "about to start"),
}
_FACTS = {
    "cancel_wish": "asked to end",
    "acknowledged": "its caller has the result",
    "waiting_approval": "waits for its worker's owner",
    "late": "the result came late",
    "events_cut": "more events came than are kept",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A row of the timeline: `state` is a public one, empty for a fact."""

    ts: datetime
    state: str = ""
    what: str = ""
    witness: str = ""
    code: str = ""
    reason: str = ""
    told: bool = False
    after_s: float | None = None


def timeline(task: TaskView, record: RecordView) -> list[Moment]:
    """Return the rows of a task in the order in which this node has them."""
    names = _CALLER if task.direction is Direction.OUT else _WORKER
    found: list[Moment] = []
    last: datetime | None = None
    before: Moment | None = None  # the state that this node was in
    for step in record.steps:
        if step.kind == "fact" and ":" in step.name:
            continue  # of the link, such as the store that it was sent to
        moment = _moment(step, names)
        if before is not None and before.state == "waiting_approval" and step.name == ACCEPTED:
            moment = replace(moment, what="approved")
        same = before is not None and (before.state, before.what) == (moment.state, moment.what)
        if same and moment.state and not step.told:
            continue  # a state and the result that says it are two rows of one commit
        after_s = None
        if moment.state and not step.told:
            after_s = None if last is None else max(0.0, (step.ts - last).total_seconds())
            last = step.ts
            before = moment
        found.append(replace(moment, after_s=after_s))
    return found


def _moment(step: StepView, names: dict[str, tuple[str, str]]) -> Moment:
    if step.kind == "fact":
        what = _FACTS.get(step.name, step.name.replace("_", " "))
        return Moment(ts=step.ts, what=what, code=step.code, reason=step.reason)
    state, what = names.get(step.name, (step.name, ""))
    if step.told:
        state, what = step.name, ""
    return Moment(
        ts=step.ts,
        state=state,
        what=what,
        witness=step.witness,
        code=step.code,
        reason=step.reason,
        told=step.told,
    )
