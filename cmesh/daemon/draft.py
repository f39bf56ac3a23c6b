"""What one task will be after a commit: records gathered by a batch of steps.

Steps of the same batch see each other's effect here; nobody else sees anything
until the commit has returned.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime

from cmesh.model import TERMINAL, Direction, Event, Result, TaskId
from cmesh.protocol.facts import CallerFacts
from cmesh.store.records import (
    EventRecord,
    Record,
    ResultRecord,
    StepRecord,
    TaskRecord,
    TaskSnapshot,
)

__all__ = ["RETRY_AT", "SENT_TO", "Draft", "retry_in_s"]

SENT_TO = "sent_to:"
"""Prefix of the caller's fact that names the worker store's incarnation it sent a task to."""

RETRY_AT = "retry_at:"
"""Prefix of the fact that says from when on, in Unix seconds, a refused task may be asked anew."""


def retry_in_s(facts: Iterable[str], now: datetime) -> int | None:
    """Return when a refused task may be asked anew, in seconds from now; None = nobody said."""
    for fact in facts:
        at = fact.removeprefix(RETRY_AT)
        if at != fact and at.isdecimal():
            return max(0, math.ceil(int(at) - now.timestamp()))
    return None


class Draft:
    """A task's stored facts, plus the records to be committed.

    Attributes:
        record: the task's own row; None = unknown here.
        state: internal name, as after the commit; None = unknown here.
        caller_signature: the receipt over the result, for a caller that has one.
        records: in the order they are committed.
    """

    def __init__(self, task_id: TaskId, direction: Direction, base: TaskSnapshot | None) -> None:
        self.task_id = task_id
        self.direction = direction
        self.record: TaskRecord | None = base.record if base else None
        self.state: str | None = base.state if base else None
        self.facts: set[str] = set(base.facts) if base else set()
        self.last_event = base.last_event if base else 0
        self.evidence = base is not None and base.result is not None
        self.caller_signature = base.caller_signature if base else ""
        self.records: list[Record] = []
        self._progress = base.progress if base else ""

    @property
    def terminal(self) -> bool:
        """The task has ended, or will have with this commit."""
        return self.state in TERMINAL

    def caller_facts(self, *, connected: bool, other_store: bool) -> CallerFacts:
        """Return what the caller's table is asked with."""
        wish = "user" if "cancel_wish" in self.facts else ""
        if not wish and "expiry_wish" in self.facts:
            wish = "expired"
        return CallerFacts(
            state=self.state,
            wish=wish,
            last_seq=self.last_event,
            evidence=self.evidence,
            connected=connected,
            other_store=other_store,
            progress=self._progress,
        )

    def sent_to(self) -> str:
        """Return the worker store's incarnation the task may have been sent to; empty = none.

        INVARIANT: `mark_sent_to` makes at most one such mark, so there is nothing to choose.
        """
        marks = sorted(fact for fact in self.facts if fact.startswith(SENT_TO))
        return marks[0].removeprefix(SENT_TO) if marks else ""

    def mark_sent_to(self, incarnation: str) -> None:
        """Note which store a submit goes to; the first one stands for good."""
        if not self.sent_to():
            self.add_fact(f"{SENT_TO}{incarnation}")

    def mark_retry(self, after_s: int | None, now: datetime) -> None:
        """Note when a task like this may be asked for anew; nothing to note for None."""
        if after_s is not None:
            self.add_fact(f"{RETRY_AT}{math.ceil(now.timestamp()) + after_s}")

    def add_task(self, record: TaskRecord) -> None:
        """Make the task known."""
        self.record = record
        self.records.append(record)

    def add_state(self, state: str, witness: str, code: str = "", reason: str = "") -> None:
        """Set the state."""
        self.state = state
        self.records.append(
            StepRecord(
                task_id=self.task_id,
                direction=self.direction,
                kind="state",
                name=state,
                witness=witness,
                code=code,
                reason=reason,
            )
        )

    def add_fact(
        self,
        name: str,
        data: Mapping[str, object] | None = None,
        *,
        code: str = "",
        reason: str = "",
    ) -> None:
        """Note a lasting fact; `code` and `reason` say what it rests on."""
        self.facts.add(name)
        self.records.append(
            StepRecord(
                task_id=self.task_id,
                direction=self.direction,
                kind="fact",
                name=name,
                code=code,
                reason=reason,
                data=data or {},
            )
        )

    def note(self, name: str) -> None:
        """Note a lasting fact, unless it is known."""
        if name not in self.facts:
            self.add_fact(name)

    def add_event(self, event: Event, spool_end: int = 0) -> None:
        """Append an event that carries its number already."""
        self.last_event = event.seq
        self.records.append(
            EventRecord(
                task_id=self.task_id, direction=self.direction, event=event, spool_end=spool_end
            )
        )

    def next_event(
        self,
        ts: datetime,
        kind: str,
        text: str = "",
        data: Mapping[str, object] | None = None,
        *,
        spool_end: int = 0,
    ) -> None:
        """Append an event with the next number."""
        event = Event(seq=self.last_event + 1, ts=ts, kind=kind, text=text, data=data or {})
        self.add_event(event, spool_end)

    def skip_events(self, through: int) -> None:
        """Note that events up to `through` will never come."""
        self.last_event = through
        self.add_fact("gap", {"through_seq": through})

    def add_result(self, result: Result, signature: str, caller_signature: str = "") -> None:
        """Set how it ended; the state is set by `add_state`."""
        self.evidence = True
        self.caller_signature = caller_signature
        self.records.append(
            ResultRecord(
                task_id=self.task_id,
                direction=self.direction,
                result=result,
                worker_signature=signature,
                caller_signature=caller_signature,
            )
        )
