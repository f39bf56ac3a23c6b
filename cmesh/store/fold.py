"""Folding records into what a task is now. The one place that says how they add up.

Used for tasks in memory and for tasks read back, so that both tell the same. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, cast

from cmesh.model import TERMINAL, Direction, Limits, Result
from cmesh.store.records import (
    EventRecord,
    ReceiptRecord,
    Record,
    ResultRecord,
    StepRecord,
    TaskRecord,
    TaskSnapshot,
)

__all__ = ["CANCEL_WISH", "GAP", "GRANTED", "PROGRESS", "RELEASED", "WAITS", "Draft"]

PROGRESS = frozenset({"queued", "running", "waiting_approval", "cancelling"})
"""Event kinds that are states of a task that goes on."""

CANCEL_WISH = "cancel_wish"
"""Fact: the task shall end; its code and reason say why."""

GRANTED = "limits"
"""Fact of a worker: what it holds the task to, where that is not what it was asked with."""

GAP = "gap"
"""Fact of a caller: events up to its `through_seq` will never come."""

RELEASED = frozenset({"patch_released", "artifact_released"})
"""Facts: bytes that a secret withheld are the caller's since; their `sha256` says which."""

WAITS = "waiting_approval"
"""Fact of a caller: the worker took the task, and its owner must approve it first."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """A task while its records are added, in the order of their numbers."""

    record: TaskRecord
    seq: int
    created_at: datetime
    state: str
    state_ts: datetime
    witness: str = ""
    code: str = ""
    reason: str = ""
    facts: set[str] = field(default_factory=set[str])
    granted: Limits | None = None
    released: dict[str, datetime] = field(default_factory=dict[str, datetime])
    wish: tuple[str, str] = ("", "")
    progress: str = ""
    last_event: int = 0
    last_event_ts: datetime | None = None
    spool_end: int = 0
    sent_at: datetime | None = None
    taken_at: datetime | None = None
    ran_here: datetime | None = None
    ran_there: datetime | None = None
    containment: str = ""
    enforcement: str = ""
    result: Result | None = None
    worker_signature: str = ""
    caller_signature: str = ""
    acknowledgement: str = ""

    @classmethod
    def start(cls, record: TaskRecord, *, seq: int, ts: datetime) -> "Draft":
        """Begin with the task's own record."""
        state = "queued" if record.direction is Direction.OUT else "accepted"
        return cls(record=record, seq=seq, created_at=ts, state=state, state_ts=ts)

    def add(self, record: Record, ts: datetime) -> None:
        """Add a record about this task, committed at `ts`."""
        match record:
            case StepRecord():
                self._step(record, ts)
            case EventRecord():
                self._event(record)
            case ResultRecord():
                self._result(record, ts)
            case ReceiptRecord(kind="result_ack"):
                self.acknowledgement = record.signature
            case _:
                pass

    def snapshot(self) -> TaskSnapshot:
        """Return the task as told so far."""
        result = self.result
        ended = self.state_ts if self.state in TERMINAL else None
        return TaskSnapshot(
            record=self.record,
            seq=self.seq,
            created_at=self.created_at,
            state=self.state,
            witness=self.witness,
            code=self.code,
            reason=self.reason,
            state_ts=self.state_ts,
            facts=frozenset(self.facts),
            granted=self.granted,
            released=dict(self.released),
            wish=self.wish,
            progress=self.progress,
            last_event=self.last_event,
            last_event_ts=self.last_event_ts,
            spool_end=self.spool_end,
            sent_at=self.sent_at,
            taken_at=self.taken_at,
            started_at=(result and result.started_at) or self.ran_here or self.ran_there,
            ended_at=(ended and result and result.ended_at) or ended,
            containment=self.containment,
            enforcement=self.enforcement,
            result=result,
            worker_signature=self.worker_signature,
            caller_signature=self.caller_signature or self.acknowledgement,
        )

    def forget_prompt(self) -> None:
        """Drop the prompt, where the store must not keep it."""
        self.record = replace(self.record, spec=replace(self.record.spec, prompt=""))

    def _step(self, step: StepRecord, ts: datetime) -> None:
        if step.kind == "fact":
            self._fact(step, ts)
            return
        self.state, self.state_ts = step.name, ts
        self.witness, self.code, self.reason = step.witness, step.code, step.reason
        if step.name == "sent" and self.sent_at is None:
            self.sent_at = ts
        elif step.name == "accepted" and self.taken_at is None:
            self.taken_at = ts
        elif step.name == "running" and self.ran_here is None:
            self.ran_here = ts

    def _fact(self, step: StepRecord, ts: datetime) -> None:
        self.facts.add(step.name)
        if step.name in RELEASED:
            self.released.setdefault(str(step.data.get("sha256", "")), ts)
        through = step.data.get("through_seq")
        if step.name == GAP and isinstance(through, int):
            self.last_event = max(self.last_event, through)
        if step.name == CANCEL_WISH:
            # Older rows have the code in their data alone.
            self.wish = (step.code or str(step.data.get("code", "")), step.reason)
        if step.name == GRANTED:
            self.granted = _limits(step.data)
        if step.name == WAITS and not self.progress:
            self.progress = WAITS

    def _event(self, record: EventRecord) -> None:
        event = record.event
        if event.kind == "running" and self.ran_there is None:
            self.ran_there = event.ts
            self.containment = str(event.data.get("containment", ""))
            self.enforcement = str(event.data.get("enforcement", ""))
        if event.seq >= self.last_event:
            self.last_event, self.last_event_ts = event.seq, event.ts
            self.progress = event.kind if event.kind in PROGRESS else self.progress
        self.spool_end = max(self.spool_end, record.spool_end)

    def _result(self, record: ResultRecord, ts: datetime) -> None:
        result = record.result
        self.state, self.state_ts, self.witness = result.state.value, ts, result.witness
        self.code = result.code or self.code
        self.result = result
        self.worker_signature = record.worker_signature
        self.caller_signature = record.caller_signature


def _limits(data: Mapping[str, object]) -> Limits | None:
    """Return limits as they were noted; what a newer version noted besides is left out."""
    known = {each.name for each in fields(Limits)}
    numbers = {k: v for k, v in data.items() if k in known and isinstance(v, int | float | None)}
    return Limits(**cast("dict[str, Any]", numbers))
