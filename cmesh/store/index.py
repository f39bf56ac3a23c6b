"""What is kept in memory: unfinished tasks whole, their latest events, and who asked lately.

Changed in the event loop, and only with records that are durable, so an answer from here
is never ahead of the disk. Everything in it can be made again from DuckDB.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cmesh.model import Direction, Event, NodeId, TaskId
from cmesh.store import queries
from cmesh.store.database import Reader
from cmesh.store.fold import Draft
from cmesh.store.records import (
    AuditRecord,
    DecisionRecord,
    EventRecord,
    Record,
    StepRecord,
    TaskRecord,
    TaskSnapshot,
    TrustRecord,
)

__all__ = ["LATELY", "Index"]

LATELY = timedelta(hours=25)
"""How far back inbound tasks are counted in memory: a day, with room for a clock change."""

_TAIL_EVENTS = 256
_FINISHED_KEPT = 64
_KEYS_KEPT = 1_000


@dataclass(slots=True)
class _Entry:
    """A task in memory; `tail` holds all of its events numbered above `tail_after`."""

    draft: Draft
    snapshot: TaskSnapshot
    tail: deque[Event] = field(default_factory=deque[Event])
    tail_after: int = 0


class Index:
    """The tasks in memory. Event loop only."""

    def __init__(self, *, on_ended: Callable[[TaskId], None] | None = None) -> None:
        self._live: dict[TaskId, _Entry] = {}
        self._finished: OrderedDict[TaskId, _Entry] = OrderedDict()
        self._trust: dict[NodeId, TrustRecord] = {}
        self._lately: dict[NodeId, dict[TaskId, datetime]] = {}
        # Hashes only: they say for certain what is new, at 60 bytes a task.
        self._ids: set[int] = set()
        self._keys: set[int] = set()
        self._key_of: OrderedDict[str, TaskId] = OrderedDict()
        self._on_ended = on_ended
        self.missed = 0

    def load(self, cursor: Reader, now: datetime, revive: Callable[[Draft], None]) -> None:
        """Fill an empty index from the database; `revive` completes an unfinished task."""
        for draft in queries.drafts(cursor, queries.unfinished(cursor)):
            revive(draft)
            self._put(_Entry(draft, draft.snapshot(), tail_after=draft.last_event))
        for task_id, key in queries.keys(cursor):
            self._ids.add(hash(task_id))
            if key:
                self._keys.add(hash(key))
        for peer_id, task_id, ts in queries.accepted_since(cursor, now - LATELY):
            self._lately.setdefault(peer_id, {})[task_id] = ts
        self._trust = {record.peer_id: record for record in queries.trusts(cursor)}

    def add(self, records: Sequence[Record], first_seq: int, ts: datetime) -> None:
        """Add records that became durable together."""
        touched: set[TaskId] = set()
        for seq, record in enumerate(records, start=first_seq):
            match record:
                case TrustRecord():
                    self._trust[record.peer_id] = record
                case TaskRecord():
                    self._begin(record, seq, ts)
                    touched.add(record.task_id)
                case AuditRecord() | DecisionRecord():
                    pass
                case _:
                    self._continue(record, ts)
                    if record.task_id is not None:
                        touched.add(record.task_id)
        for task_id in touched:
            self._refresh(task_id)

    def find(self, task_id: TaskId) -> TaskSnapshot | None:
        """Return the task when it is in memory."""
        entry = self._entry(task_id)
        return None if entry is None else entry.snapshot

    def remember(self, draft: Draft, missed: int) -> TaskSnapshot:
        """Keep a task that was read back.

        `missed` is the counter's value before the read: when records about tasks not in
        memory came meanwhile, the draft may lack one and is not kept.
        """
        entry = self._entry(draft.record.task_id)
        if entry is None:
            entry = _Entry(draft, draft.snapshot(), tail_after=draft.last_event)
            if missed == self.missed:
                self._put(entry)
        return entry.snapshot

    def unfinished(self) -> list[TaskSnapshot]:
        """Return the tasks somebody must still act on, oldest first."""
        return sorted((entry.snapshot for entry in self._live.values()), key=lambda s: s.seq)

    def tail(self, task_id: TaskId, after: int) -> list[Event] | None:
        """Return the events above `after`, or None when memory does not hold them all."""
        entry = self._entry(task_id)
        if entry is None or after < entry.tail_after:
            return None
        return [event for event in entry.tail if event.seq > after]

    def latest(self, task_id: TaskId, count: int) -> list[Event] | None:
        """Return the latest `count` events, or None when memory does not hold them all."""
        entry = self._entry(task_id)
        if entry is None or (len(entry.tail) < count and entry.tail_after > 0):
            return None
        return list(entry.tail)[max(0, len(entry.tail) - count) :]

    def may_know(self, task_id: TaskId) -> bool:
        """Whether a task could have this id; False is certain."""
        return hash(task_id) in self._ids

    def may_have(self, key: str) -> bool:
        """Whether a task could have this idempotency key; False is certain."""
        return hash(key) in self._keys

    def by_key(self, key: str) -> TaskId | None:
        """Return the task with this key when it was added lately."""
        return self._key_of.get(key)

    def trust(self) -> list[TrustRecord]:
        """Return the latest decision about each peer's key."""
        return list(self._trust.values())

    def count(self, peer_id: NodeId, since: datetime, now: datetime) -> int | None:
        """Return how many inbound tasks came since; None when that is too long ago."""
        if since < now - LATELY:
            return None
        lately = self._lately.get(peer_id, {})
        for task_id in [t for t, ts in lately.items() if ts < now - LATELY]:
            del lately[task_id]
        return sum(ts >= since for ts in lately.values())

    def _begin(self, record: TaskRecord, seq: int, ts: datetime) -> None:
        draft = Draft.start(record, seq=seq, ts=ts)
        self._put(_Entry(draft, draft.snapshot()))
        self._ids.add(hash(record.task_id))
        if record.direction is Direction.IN:
            self._lately.setdefault(record.peer_id, {})[record.task_id] = ts
        elif record.idempotency_key:
            self._keys.add(hash(record.idempotency_key))
            self._key_of[record.idempotency_key] = record.task_id
            if len(self._key_of) > _KEYS_KEPT:
                self._key_of.popitem(last=False)

    def _continue(self, record: Record, ts: datetime) -> None:
        task_id = getattr(record, "task_id", None)
        entry = None if task_id is None else self._entry(task_id)
        if entry is None:
            self.missed += 1
            return
        entry.draft.add(record, ts)
        if isinstance(record, EventRecord):
            entry.tail.append(record.event)
            if len(entry.tail) > _TAIL_EVENTS:
                entry.tail_after = entry.tail.popleft().seq
        if isinstance(record, StepRecord) and (record.kind, record.name) == ("state", "denied"):
            self._lately.get(entry.draft.record.peer_id, {}).pop(record.task_id, None)

    def _refresh(self, task_id: TaskId) -> None:
        entry = self._entry(task_id)
        if entry is None:
            return
        ended_before = entry.snapshot.terminal
        entry.snapshot = entry.draft.snapshot()
        if entry.snapshot.terminal and not ended_before and self._on_ended:
            self._on_ended(task_id)
            entry.draft.forget_prompt()
            entry.snapshot = entry.draft.snapshot()
        self._put(entry)

    def _entry(self, task_id: TaskId) -> _Entry | None:
        return self._live.get(task_id) or self._finished.get(task_id)

    def _put(self, entry: _Entry) -> None:
        task_id = entry.draft.record.task_id
        self._live.pop(task_id, None)
        self._finished.pop(task_id, None)
        if entry.snapshot.unfinished:
            self._live[task_id] = entry
            return
        self._finished[task_id] = entry
        if len(self._finished) > _FINISHED_KEPT:
            self._finished.popitem(last=False)
