"""What the store keeps and what it answers: values only.

Records are never changed once committed; each becomes one typed row and one row of
the chained log. Nothing here does I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cmesh.model import (
    TERMINAL,
    Direction,
    Event,
    Limits,
    NodeId,
    Result,
    TaskId,
    TaskSpec,
    TaskState,
)
from cmesh.protocol.facts import CallerFacts, WorkerFacts
from cmesh.protocol.state import public

__all__ = [
    "AuditRecord",
    "DecisionRecord",
    "EventRecord",
    "Finding",
    "ReceiptRecord",
    "Record",
    "Refused",
    "ResultRecord",
    "Selection",
    "SqlRows",
    "StepRecord",
    "TaskRecord",
    "TaskSnapshot",
    "TrustRecord",
    "Verification",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A peer of a group that was given no task: refused here, before anything was sent."""

    peer: str
    node_id: NodeId
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How a caller came to a task's peer.

    Attributes:
        where: the conditions that it was chosen by.
        chosen: the choice in words, as it was shown.
        group: the group of tasks that one call has asked for; empty = the task alone.
        peers: node ids of all that the group was asked of, in the order asked.
        refused: those of them that were given no task, and why.
        also: tasks of other calls that stand in the group for an equal one.
    """

    where: tuple[str, ...] = ()
    chosen: str = ""
    group: str = ""
    peers: tuple[NodeId, ...] = ()
    refused: tuple[Refused, ...] = ()
    also: tuple[TaskId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as it was first known here; its state follows in `StepRecord`s.

    Attributes:
        principal: the caller's login name or tags as whois said; empty when this node asks.
        session: the local agent session that asked; empty on the worker.
        project: the local directory the session works in; empty on the worker.
        idempotency_key: unique on the caller; empty on the worker.
        worker_incarnation: the worker store's incarnation the task was meant for.
        rule: the policy rule that allowed it.
        thread: the first task of the conversation, for a follow-up turn; None = this one.
        turn: its place in the conversation, from 1.
        selection: how its peer was chosen, on the caller; None = it was named, alone.
    """

    task_id: TaskId
    direction: Direction
    peer_id: NodeId
    peer: str
    principal: str
    session: str
    project: str
    idempotency_key: str
    spec: TaskSpec
    payload_hash: str
    worker_incarnation: str
    rule: str | None
    thread: TaskId | None = None
    turn: int = 1
    selection: Selection | None = None

    @property
    def first(self) -> TaskId:
        """The first task of the conversation, which names the whole of it."""
        return self.thread or self.task_id


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A change of a task's state, or a lasting fact about it.

    Attributes:
        name: for a state, its internal name in `cmesh.protocol.state`; for a fact,
            for example `cancel_wish`, `late`, `acknowledged`.
        witness: what the state rests on.
        code: error code when cmesh itself explains the state.
    """

    task_id: TaskId
    direction: Direction
    kind: Literal["state", "fact"]
    name: str
    witness: str = ""
    code: str = ""
    reason: str = ""
    data: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One event of a task; `spool_end` is the worker's byte offset in the output after it."""

    task_id: TaskId
    direction: Direction
    event: Event
    spool_end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One policy decision; `effect` is `allow`, `ask` or `deny`."""

    task_id: TaskId | None
    direction: Direction
    peer_id: NodeId
    peer: str
    principal: str
    operation: str
    effect: str
    rule: str | None
    reason: str
    failed: tuple[Mapping[str, str], ...]
    policy_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """How a task ended; it also is the task's state from then on."""

    task_id: TaskId
    direction: Direction
    result: Result
    worker_signature: str
    caller_signature: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRecord:
    """A peer's signature: over its log's head, or over a result it has committed."""

    peer_id: NodeId
    peer: str
    kind: Literal["head", "result_ack"]
    task_id: TaskId | None
    head_seq: int
    head_hash: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRecord:
    """A decision about a peer's cmesh key; the latest one per `peer_id` holds."""

    peer_id: NodeId
    peer: str
    key: str
    trusted: bool
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """Anything else worth a row, for example `daemon_started` or `config_changed`."""

    kind: str
    task_id: TaskId | None = None
    data: Mapping[str, object] = field(default_factory=dict[str, object])


Record = (
    TaskRecord
    | StepRecord
    | EventRecord
    | DecisionRecord
    | ResultRecord
    | ReceiptRecord
    | TrustRecord
    | AuditRecord
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot:
    """A task as the records so far tell it.

    Attributes:
        seq: the log's sequence number of the task's own row; orders tasks.
        state: internal name; `queued` (caller) or `accepted` (worker) before any step.
        state_ts: when that state was committed here.
        facts: names of every fact committed.
        granted: what a worker holds it to, where that is not what it was asked with.
        released: when what a secret withheld was released, by its SHA-256; on a caller, when
            it came.
        wish: code and reason of the wish to end it; both empty = none, or its owner's.
        progress: the latest event kind that is a state's name; how a caller knows of `running`.
        last_event: number of the latest event, 0 when there is none.
        sent_at, taken_at: on a caller, when it may have been sent first, and when its worker's
            word that it has it was committed.
        started_at: as the result says, else when `running` was first committed or told.
        ended_at: as the result says, else when the terminal state was committed.
        containment: what held its processes, as the event `running` says; empty = not known.
        enforcement: the sandbox it is in, as that event says; the result says it again.
    """

    record: TaskRecord
    seq: int
    created_at: datetime
    state: str
    witness: str = ""
    code: str = ""
    reason: str = ""
    state_ts: datetime
    facts: frozenset[str] = frozenset()
    granted: Limits | None = None
    released: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    wish: tuple[str, str] = ("", "")
    progress: str = ""
    last_event: int = 0
    last_event_ts: datetime | None = None
    spool_end: int = 0
    sent_at: datetime | None = None
    taken_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    containment: str = ""
    enforcement: str = ""
    result: Result | None = None
    worker_signature: str = ""
    caller_signature: str = ""

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self.state in TERMINAL

    @property
    def forgotten(self) -> bool:
        """Whether its texts were erased, or are being erased."""
        return not self.record.payload_hash

    @property
    def unfinished(self) -> bool:
        """Whether somebody must still act: not ended, or the caller has not acknowledged."""
        waits_for_ack = self.record.direction is Direction.IN and "acknowledged" not in self.facts
        return not self.terminal or waits_for_ack

    @property
    def public_state(self) -> TaskState:
        """The state by the task's own rows; one that waits for input is `succeeded` here."""
        wish = "cancel_wish" in self.facts
        if self.record.direction is Direction.IN:
            return public("worker", self.state, WorkerFacts(state=self.state, cancel_wish=wish))
        facts = CallerFacts(state=self.state, wish="user" if wish else "", progress=self.progress)
        return public("caller", self.state, facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlRows:
    """The answer to a query: JSON values, cut to the asked rows and the size limit.

    Attributes:
        cut_by: what cut them, `rows` or `bytes`; empty = these are all.
        head_seq: the last row of the log in the copy that was asked.
        held_by: the sandbox around the query; `none` = limits of the operating system alone.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[list[object]]
    cut_by: str = ""
    elapsed_ms: float
    head_seq: int
    held_by: str = "none"

    @property
    def truncated(self) -> bool:
        """Whether rows are missing."""
        return bool(self.cut_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The first thing in a store that is not as it was written.

    Attributes:
        seq: the row of the log; None = the store as a whole.
        kind: the log's word for the row; empty = not known.
        what: in words, to follow on the row's number.
    """

    seq: int | None = None
    kind: str = ""
    task_id: str | None = None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check of the log found.

    Attributes:
        rows: rows of the log that were looked at.
        finding: the first row that does not fit; None = none.
        head_ok: the log has the row that the head file names, as far as the look went.
        prompts_left_out: prompts that the store's configuration leaves out.
        erased: rows whose texts were erased, as a later row of the chain says.
        resealed: those of them that are from before version 3 of the chain's texts.
    """

    rows: int
    finding: Finding | None = None
    head_ok: bool
    prompts_left_out: int = 0
    erased: int = 0
    resealed: int = 0

    @property
    def bad_seq(self) -> int | None:
        """The first row that does not fit; None = none."""
        return None if self.finding is None else self.finding.seq
