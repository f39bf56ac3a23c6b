"""What a row of a task table is made of: what it writes, sends and does."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Literal

__all__ = ["REPORTED", "SAME", "Act", "Row", "Send", "Write"]

SAME = "same"
"""As `next`: the state does not change."""

REPORTED = "reported"
"""As `next`: the state that the event carries."""


class Send(StrEnum):
    """What to send; each is one message, in the row's order."""

    SUBMIT = "submit"
    SUBSCRIBE = "subscribe"
    CANCEL_USER = "cancel(user)"
    CANCEL_EXPIRED = "cancel(expired)"
    WANTED = "wanted"
    RESULT_ACK = "result_ack"
    ACCEPTED = "accepted"
    DENIED = "denied"
    CONFLICT = "denied(task_conflict)"
    STILL_WANTED = "still_wanted"
    EVENT = "event"
    GAP = "gap"
    END = "end"
    RESULT = "result"
    UNACKNOWLEDGED = "welcome lists the task"
    UNKNOWN = "failure(task_not_found)"
    FORGOTTEN = "failure(store_restored)"


class Act(StrEnum):
    """What to do besides; the last three only change what is kept in memory.

    SPAWN makes the task's directory and spawns a shim; BURN makes the directory and links
    the worker's own claim; END tells the shim to end the tree; DISCARD renames the
    directory away, then deletes it; FOLLOW sets the cursor of the subscription.
    """

    SPAWN = "spawn"
    BURN = "burn"
    END = "end"
    DISCARD = "discard"
    FOLLOW = "follow"
    ASKED = "asked"
    WANTED = "wanted"


@dataclass(frozen=True, slots=True)
class Write:
    """One record of a commit; `state` and `fact` name a step, the others stand for a record.

    Attributes:
        name: the new state, or the fact's name; empty for the other kinds.
    """

    kind: Literal["task", "state", "fact", "event", "result", "receipt"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. All guards must hold; the first row that fits is taken."""

    id: str
    states: tuple[str | None, ...]
    event: type
    guard: tuple[str, ...] = ()
    _: KW_ONLY
    side: Literal["caller", "worker"]
    write: tuple[Write, ...] = ()
    out: tuple[Send, ...] = ()
    act: tuple[Act, ...] = ()
    next: str = SAME
