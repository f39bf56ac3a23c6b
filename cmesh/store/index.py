"""What is kept in memory: unfinished tasks whole, their latest events, and who asked lately.

Changed in the event loop, and only with records that are durable, so an answer from here
is never ahead of the disk. Everything in it can be made again from DuckDB.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cmesh.model import TERMINAL, DayUse, Direction, Event, NodeId, TaskId, TaskState
from cmesh.store.charge import charge
from cmesh.store.fold import Draft
from cmesh.store.records import (
    AuditRecord,
    DecisionRecord,
    EventRecord,
    ReceiptRecord,
    Record,
    ResultRecord,
    StepRecord,
    TaskRecord,
    TaskSnapshot,
    TrustRecord,
)
from cmesh.store.summary import Summary, mark
from cmesh.store.turns import asks, gone, taken, waits_for_input

__all__ = ["FINISHED_KEPT", "LATELY", "Index"]

LATELY = timedelta(hours=25)
"""How far back inbound tasks are counted in memory: a day, with room for a clock change."""

FINISHED_KEPT = 64
"""Finished tasks in memory, the latest ones: what people and agents look at again."""

_TAIL_EVENTS = 256
_KEYS_KEPT = 1_000


@dataclass(slots=True)
class _Entry:
    """A task in memory; `tail` holds all of its events numbered above `tail_after`.

    `alike` is where `_alike` has it; `told` is the draft's snapshot, None = it is to be made;
    `over`: its end was seen to, which a snapshot cannot say once the end is in the draft.
    """

    draft: Draft
    told: TaskSnapshot | None
    tail: deque[Event] = field(default_factory=deque[Event])
    tail_after: int = 0
    alike: tuple[str, str] | None = None
    over: bool = False

    def __post_init__(self) -> None:
        self.over = self.draft.state in TERMINAL

    @property
    def snapshot(self) -> TaskSnapshot:
        if self.told is None:
            self.told = self.draft.snapshot()
        return self.told


class Index:
    """The tasks in memory. Event loop only.

    Attributes:
        told: called with each task whose end is durable now; None = nobody.
    """

    def __init__(self, *, on_ended: Callable[[TaskId], None] | None = None) -> None:
        self._live: dict[TaskId, _Entry] = {}
        self._finished: OrderedDict[TaskId, _Entry] = OrderedDict()
        # This node's own tasks that have not ended, by session and prompt.
        self._alike: dict[tuple[str, str], dict[TaskId, None]] = {}
        self._trust: dict[NodeId, TrustRecord] = {}
        self._heads: dict[NodeId, ReceiptRecord] = {}
        # By peer, then by the hour they came in: a count costs the same, however many came.
        self._lately: dict[NodeId, Counter[int]] = {}
        # What tasks of a peer that ended here have used, by the hour in which they did.
        self._used: dict[NodeId, dict[int, DayUse]] = {}
        # Marks only: they say for certain what is new, at 60 bytes a task.
        self._ids: set[int] = set()
        self._keys: set[int] = set()
        self._key_of: OrderedDict[str, TaskId] = OrderedDict()
        self._followers: dict[TaskId, list[TaskId]] = {}
        self._groups: dict[str, list[TaskId]] = {}
        # Ended with a question, and until when it can be answered: every task that waits for
        # input is here. One whose answer has ended, and so keeps its place, is not.
        self._questions: dict[TaskId, datetime] = {}
        self._on_ended = on_ended
        self.told: Callable[[TaskSnapshot], None] | None = None
        # INVARIANT: every task whose own row comes after this one is in memory.
        self._whole_after = 0
        self.missed = 0

    def load(self, summary: Summary, revive: Callable[[Draft], None]) -> None:
        """Fill an empty index; `revive` completes an unfinished task."""
        for draft in summary.unfinished:
            revive(draft)
            self._put(_Entry(draft, draft.snapshot(), tail_after=draft.last_event))
        for draft in summary.finished:
            self._put(_Entry(draft, draft.snapshot(), tail_after=draft.last_event))
        self._whole_after = max(self._whole_after, summary.whole_after)
        self._ids, self._keys = set(summary.ids), set(summary.keys)
        for task_id, follower in summary.followers:
            self._followers.setdefault(task_id, []).append(follower)
        self._questions = dict(summary.questions)
        for group, task_id in summary.groups:
            self._groups.setdefault(group, []).append(task_id)
        for peer_id, _, ts in summary.lately:
            self._lately.setdefault(peer_id, Counter())[_hour(ts)] += 1
        for peer_id, hour, use in summary.used:
            self._use(peer_id, hour, use)
        self._trust = {record.peer_id: record for record in summary.trust}
        self._heads = {record.peer_id: record for record in summary.heads}

    def add(self, records: Sequence[Record], first_seq: int, ts: datetime) -> None:
        """Add records that became durable together."""
        touched: set[TaskId] = set()
        for seq, record in enumerate(records, start=first_seq):
            match record:
                case EventRecord():  # the most there are; it neither ends a task nor brings it back
                    self._continue(record, ts)
                case TrustRecord():
                    self._trust[record.peer_id] = record
                case TaskRecord():
                    self._begin(record, seq, ts)
                    touched.add(record.task_id)
                case ReceiptRecord(kind="head"):
                    self._heads[record.peer_id] = record
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

    def replace(self, draft: Draft) -> None:
        """Put a finished task as it was read back in the place of what memory has of it."""
        task_id = draft.record.task_id
        if task_id in self._finished:
            self._finished[task_id] = _Entry(draft, draft.snapshot(), tail_after=draft.last_event)
        self._questions.pop(task_id, None)

    def is_unfinished(self, task_id: TaskId) -> bool:
        """Whether somebody must still act on a task."""
        return task_id in self._live

    def unfinished(self) -> list[TaskSnapshot]:
        """Return the tasks somebody must still act on, oldest first."""
        return sorted((entry.snapshot for entry in self._live.values()), key=lambda s: s.seq)

    def alike(self, session: str, prompt: str) -> list[TaskSnapshot]:
        """Return what a session has asked for with this prompt and has not ended."""
        return [self._live[task_id].snapshot for task_id in self._alike.get((session, prompt), ())]

    def listed(
        self,
        *,
        direction: Direction | None,
        states: Sequence[TaskState] | None,
        session: str | None,
        limit: int,
        now: datetime,
    ) -> list[TaskSnapshot] | None:
        """Return the newest such tasks, newest first; None when memory may lack one of them.

        `states` are those of `now`.
        """
        going_on = states is not None and not TERMINAL.intersection(states)
        waiting, unsure = (set[TaskId](), False) if states is None else self._waiting(now)
        if states is not None and going_on and unsure and TaskState.WAITING_INPUT in states:
            return None

        def state_of(task: TaskSnapshot) -> TaskState:
            waits = task.record.task_id in waiting
            return TaskState.WAITING_INPUT if waits else task.public_state

        # Whatever goes on is in memory; of the rest, what is newer than a row.
        after = 0 if going_on else self._whole_after
        found = [
            entry.snapshot
            for entry in (*self._live.values(), *self._finished.values())
            if entry.snapshot.seq > after
            and direction in {None, entry.snapshot.record.direction}
            and session in {None, entry.snapshot.record.session}
            and (states is None or state_of(entry.snapshot) in states)
        ]
        if len(found) < limit and after:
            return None
        return sorted(found, key=lambda snapshot: snapshot.seq, reverse=True)[:limit]

    def _waiting(self, now: datetime) -> tuple[set[TaskId], bool]:
        """Return the tasks in memory that wait for input, and whether others may.

        A task's turns are newer than it is, so memory has them where it is whole.
        """
        for task_id in [one for one, until in self._questions.items() if until < now - LATELY]:
            del self._questions[task_id]
        waiting, unsure = set[TaskId](), False
        for task_id in [one for one, until in self._questions.items() if until > now]:
            ids = self._followers.get(task_id, ())
            turns = [found for found in map(self.find, ids) if found is not None]
            task = self.find(task_id)
            if taken(turns) is not None or gone(turns):
                continue
            if task is None or len(turns) < len(ids):
                unsure = True
            elif waits_for_input(task, turns, now):
                waiting.add(task_id)
        return waiting, unsure

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
        return mark(task_id) in self._ids

    def may_have(self, key: str) -> bool:
        """Whether a task could have this idempotency key; False is certain."""
        return mark(key) in self._keys

    def by_key(self, key: str) -> TaskId | None:
        """Return the task with this key when it was added lately."""
        return self._key_of.get(key)

    def followers(self, task_id: TaskId) -> list[TaskId]:
        """Return the tasks that were asked for as the turn after this one, oldest first."""
        return list(self._followers.get(task_id, ()))

    def groups(self, reference: str) -> dict[str, list[TaskId]]:
        """Return the groups whose name begins or ends so, with their tasks, oldest first."""
        exact = self._groups.get(reference)
        if exact is not None:
            return {reference: list(exact)}
        return {
            group: list(tasks)
            for group, tasks in self._groups.items()
            if group.startswith(reference) or group.endswith(reference)
        }

    def trust(self) -> list[TrustRecord]:
        """Return the latest decision about each peer's key."""
        return list(self._trust.values())

    def head_of(self, peer_id: NodeId) -> ReceiptRecord | None:
        """Return the latest audit head a peer has signed for this node."""
        return self._heads.get(peer_id)

    def count(self, peer_id: NodeId, since: datetime, now: datetime) -> int | None:
        """Return how many inbound tasks came since the hour of `since`; None = too long ago."""
        if since < now - LATELY:
            return None
        hours = self._lately.get(peer_id, Counter())
        for hour in [hour for hour in hours if hour < _hour(now - LATELY)]:
            del hours[hour]
        return sum(count for hour, count in hours.items() if hour >= _hour(since))

    def used(self, peer_id: NodeId, since: datetime) -> DayUse:
        """Return what a peer's tasks that ended since the hour of `since` have used here.

        `since` is at most a day ago.
        """
        hours = self._used.get(peer_id, {})
        for hour in [hour for hour in hours if hour < _hour(since - LATELY)]:
            del hours[hour]
        return sum((use for hour, use in hours.items() if hour >= _hour(since)), DayUse())

    def _use(self, peer_id: NodeId, hour: int, use: DayUse) -> None:
        hours = self._used.setdefault(peer_id, {})
        hours[hour] = hours.get(hour, DayUse()) + use

    def _begin(self, record: TaskRecord, seq: int, ts: datetime) -> None:
        draft = Draft.start(record, seq=seq, ts=ts)
        self._put(_Entry(draft, draft.snapshot()))
        self._ids.add(mark(record.task_id))
        if record.spec.follows is not None:
            self._followers.setdefault(record.spec.follows, []).append(record.task_id)
        if record.selection is not None and record.selection.group:
            self._groups.setdefault(record.selection.group, []).append(record.task_id)
        if record.direction is Direction.IN:
            self._lately.setdefault(record.peer_id, Counter())[_hour(ts)] += 1
        elif record.idempotency_key:
            self._keys.add(mark(record.idempotency_key))
            self._key_of[record.idempotency_key] = record.task_id
            if len(self._key_of) > _KEYS_KEPT:
                self._key_of.popitem(last=False)

    def _continue(self, record: Record, ts: datetime) -> None:
        task_id = getattr(record, "task_id", None)
        if isinstance(record, ResultRecord) and asks(record.result):
            assert record.result.follow_up_until is not None
            self._questions[record.task_id] = record.result.follow_up_until
        entry = None if task_id is None else self._entry(task_id)
        if entry is None:
            self.missed += 1
            return
        entry.draft.add(record, ts)
        if isinstance(record, ResultRecord) and record.direction is Direction.IN:
            self._use(entry.draft.record.peer_id, _hour(ts), charge(entry.draft.snapshot()))
        if isinstance(record, EventRecord):
            entry.told = None
            entry.tail.append(record.event)
            if len(entry.tail) > _TAIL_EVENTS:
                entry.tail_after = entry.tail.popleft().seq
        if isinstance(record, StepRecord) and (record.kind, record.name) == ("state", "denied"):
            draft = entry.draft
            hours = self._lately.get(draft.record.peer_id)
            if hours is not None and draft.record.direction is Direction.IN:
                hours[_hour(draft.created_at)] -= 1

    def _refresh(self, task_id: TaskId) -> None:
        entry = self._entry(task_id)
        if entry is None:
            return
        entry.told = None
        ends = entry.snapshot.terminal and not entry.over
        entry.over = entry.snapshot.terminal
        if ends and self.told:
            self.told(entry.snapshot)
        if ends and self._on_ended:
            self._on_ended(task_id)
            entry.draft.forget_prompt()
            entry.told = None
        follows = entry.snapshot.record.spec.follows
        if follows is not None and entry.snapshot.result and taken([entry.snapshot]):
            self._questions.pop(follows, None)  # answered, and nothing changes that
        self._put(entry)

    def _entry(self, task_id: TaskId) -> _Entry | None:
        return self._live.get(task_id) or self._finished.get(task_id)

    def _put(self, entry: _Entry) -> None:
        task_id = entry.draft.record.task_id
        self._live.pop(task_id, None)
        self._finished.pop(task_id, None)
        self._put_alike(entry)
        if entry.snapshot.unfinished:
            self._live[task_id] = entry
            return
        self._finished[task_id] = entry
        if len(self._finished) > FINISHED_KEPT:
            _, gone = self._finished.popitem(last=False)
            self._whole_after = max(self._whole_after, gone.snapshot.seq)

    def _put_alike(self, entry: _Entry) -> None:
        record = entry.snapshot.record
        own = record.direction is Direction.OUT and not entry.snapshot.terminal
        key = (record.session, record.spec.prompt) if own else None
        if key == entry.alike:
            return
        if entry.alike is not None:
            alike = self._alike[entry.alike]
            del alike[record.task_id]
            if not alike:
                del self._alike[entry.alike]
        if key is not None:
            self._alike.setdefault(key, {})[record.task_id] = None
        entry.alike = key


def _hour(moment: datetime) -> int:
    return int(moment.timestamp()) // 3600
