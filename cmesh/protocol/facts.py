"""What the task tables are asked about: a task's states and facts on one side.

Values only. What happens to it is `cmesh.protocol.happenings`, which step follows
`cmesh.protocol.state`; nothing here decides, and nothing here is on the wire.
"""

from dataclasses import dataclass
from typing import Literal

from cmesh.model import TERMINAL

__all__ = [
    "ACCEPTED",
    "INTENT",
    "KNOWN",
    "OPEN",
    "QUEUED",
    "RUNNING",
    "SENT",
    "STARTED",
    "TERMINALS",
    "UNKNOWN",
    "UNSTARTED",
    "WAITING",
    "CallerFacts",
    "WorkerFacts",
]

QUEUED = "queued"
"""Caller: certainly never sent."""

SENT = "sent"
"""Caller: may have been sent, no answer known."""

ACCEPTED = "accepted"
"""Worker: the row is committed. Caller: and the caller knows."""

UNKNOWN = "unknown"
"""Caller: the worker had it, and its store has less of it by now than it had told."""

WAITING = "waiting"
"""Worker: waits for its owner's approval."""

INTENT = "intent"
"""Worker: from here on a shim may exist."""

RUNNING = "running"
"""Worker: the shim recorded the agent's process."""

TERMINALS: tuple[str, ...] = tuple(sorted(state.value for state in TERMINAL))
OPEN = (SENT, ACCEPTED)
UNSTARTED = (ACCEPTED, WAITING)
STARTED = (INTENT, RUNNING)
KNOWN = (*UNSTARTED, *STARTED, *TERMINALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerFacts:
    """What a caller knows of one task.

    Attributes:
        state: None = no row.
        wish: the durable wish on file; `user` outranks `expired`.
        last_seq: the last event stored, or skipped by a gap.
        evidence: the worker's signed result is stored.
        connected: a link to the worker is open.
        other_store: the link's store is not the one the task was sent to (incarnation).
        progress: the newest state the worker told by an event or by `accepted`.
    """

    state: str | None
    wish: Literal["", "user", "expired"] = ""
    last_seq: int = 0
    evidence: bool = False
    connected: bool = False
    other_store: bool = False
    progress: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker knows of one task.

    Attributes:
        state: None = no row, not even a tombstone.
        late: durable; the task waited, so the caller is asked before the start.
        restored: durable; it was found about to start in a store that was restored, so what
            became of it is not known.
        last_seq: the last event stored.
        pruned_through: events up to and with this one are no longer kept.
        same_hash: a submit carries the stored payload hash, or none is stored.
        wanted: the caller said yes, in this life of the daemon.
        ending: the shim was told to end the tree, in this life of the daemon.
        asked: the caller was asked, on this connection.
        cursor: the last event sent on this subscription; None = not subscribed.
        told: the result was sent on this subscription.
    """

    state: str | None
    cancel_wish: bool = False
    late: bool = False
    acknowledged: bool = False
    restored: bool = False
    last_seq: int = 0
    pruned_through: int = 0
    same_hash: bool = True
    wanted: bool = False
    ending: bool = False
    asked: bool = False
    cursor: int | None = None
    told: bool = False
