"""What happens to a task, as the task tables are asked about it.

Values only. Which step follows from them is `cmesh.protocol.state`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

__all__ = [
    "Approved",
    "CallerEvent",
    "Connected",
    "Delegated",
    "Expired",
    "Flow",
    "FromPeer",
    "GotAccepted",
    "GotCancel",
    "GotDenied",
    "GotEvent",
    "GotForgotten",
    "GotGap",
    "GotResult",
    "GotResultAck",
    "GotStillWanted",
    "GotSubmit",
    "GotSubscribe",
    "GotWanted",
    "GotWelcome",
    "LinkUp",
    "Looked",
    "Refused",
    "Restarted",
    "Slot",
    "StoreRestored",
    "UserCancels",
    "WorkerEvent",
]


@dataclass(frozen=True, slots=True)
class _Happening:
    label: ClassVar[str]


@dataclass(frozen=True, slots=True)
class FromPeer(_Happening):
    """A message of the peer; where no row takes it, the peer broke the protocol."""


@dataclass(frozen=True, slots=True)
class Delegated(_Happening):
    """Caller: a new task is asked for."""

    label = "delegate"


@dataclass(frozen=True, slots=True)
class LinkUp(_Happening):
    """Caller: a never sent task has a link to its worker."""

    label = "link up"


@dataclass(frozen=True, slots=True)
class UserCancels(_Happening):
    """Caller: the user no longer wants the task."""

    label = "user cancels"


@dataclass(frozen=True, slots=True)
class Expired(_Happening):
    """Both: the task's `not_after` has passed by this side's own clock."""

    label = "own clock: expired"


@dataclass(frozen=True, slots=True)
class Connected(_Happening):
    """Both: a link to the peer opened.

    A worker asks again when a task becomes late while the link is open.
    """

    label = "connected"


@dataclass(frozen=True, slots=True)
class GotAccepted(FromPeer):
    """Caller: the worker has the row."""

    label = "accepted"


@dataclass(frozen=True, slots=True)
class GotDenied(FromPeer):
    """Caller: the worker has committed a refusal."""

    label = "denied"
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GotEvent(FromPeer):
    """Caller: event number `seq`."""

    label = "event(n)"
    seq: int


@dataclass(frozen=True, slots=True)
class GotGap(FromPeer):
    """Caller: events up to and with `through` are gone."""

    label = "gap(n)"
    through: int


@dataclass(frozen=True, slots=True)
class GotForgotten(FromPeer):
    """Caller: the worker's store has less of the task than it had told, or nothing."""

    label = "forgotten"


@dataclass(frozen=True, slots=True)
class GotStillWanted(FromPeer):
    """Caller: the worker asks before a late start."""

    label = "wanted?"


@dataclass(frozen=True, slots=True)
class GotResult(FromPeer):
    """Caller: the end, with the worker's signature already verified."""

    label = "result(s, n)"
    state: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class GotWelcome(FromPeer):
    """Caller: the worker lists the task as ended and not acknowledged."""

    label = "welcome lists the task"


@dataclass(frozen=True, slots=True)
class GotSubmit(FromPeer):
    """Worker: a submit, with policy's answer.

    Attributes:
        waited: it lay in an outbox before.
        before: for a follow-up, whether the turn before it can be followed now: it ended
            `succeeded` or `failed`, its conversation is kept, and no other turn follows it.
    """

    label = "submit"
    decision: Literal["allow", "ask", "deny"]
    waited: bool = False
    before: Literal["none", "ready", "unfit"] = "none"


@dataclass(frozen=True, slots=True)
class GotCancel(FromPeer):
    """Worker: a cancel of the caller, or of the worker itself when a right was lost."""

    label = "cancel(reason)"
    reason: Literal["user", "expired"]


@dataclass(frozen=True, slots=True)
class Approved(_Happening):
    """Worker: its owner approved the task."""

    label = "approved"


@dataclass(frozen=True, slots=True)
class Refused(_Happening):
    """Worker: its owner refused the task."""

    label = "refused"


@dataclass(frozen=True, slots=True)
class Restarted(_Happening):
    """Worker: a new life of the daemon found the row; comes before anything else."""

    label = "daemon started"


@dataclass(frozen=True, slots=True)
class StoreRestored(_Happening):
    """Worker: its store turned out to be a restored copy, and no life since has seen a shim."""

    label = "store restored"


@dataclass(frozen=True, slots=True)
class GotWanted(FromPeer):
    """Worker: the caller still wants the task."""

    label = "yes"


@dataclass(frozen=True, slots=True)
class Slot(_Happening):
    """Worker: a place to run is free for this task."""

    label = "free slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked(_Happening):
    """Worker: what disk and processes show. Repeated after every step that changed something.

    INVARIANT: gathered in this order: claim, agent, owner, result, spool, processes.
    A dead owner writes no result any more, so only "dead, then no result" proves an end.

    Attributes:
        claim: who made the claim file.
        agent: the shim recorded the agent's process.
        owner_alive: the claim's owner lives (lock held), not a bare pid.
        child: a shim that this life of the daemon spawned still lives.
        result: state in the shim's result file; None = no file.
        stored: every event of the spool is in the store.
        processes: how many processes of the task were counted.
        directory: the task's directory exists.
    """

    label = "look"
    claim: Literal["none", "shim", "burnt"] = "none"
    agent: bool = False
    owner_alive: bool = False
    child: bool = False
    result: Literal["succeeded", "failed", "cancelled", "timed_out"] | None = None
    stored: bool = True
    processes: int = 0
    directory: bool = True


@dataclass(frozen=True, slots=True)
class GotSubscribe(FromPeer):
    """Worker: the caller wants events after `after_seq`, and the result."""

    label = "subscribe(n)"
    after_seq: int


@dataclass(frozen=True, slots=True)
class Flow(_Happening):
    """Worker: the connection can take a frame of this task's subscription."""

    label = "link can send"


@dataclass(frozen=True, slots=True)
class GotResultAck(FromPeer):
    """Worker: the caller has the result, with its signature already verified."""

    label = "result_ack"


CallerEvent = (
    Delegated
    | LinkUp
    | UserCancels
    | Expired
    | Connected
    | GotAccepted
    | GotDenied
    | GotEvent
    | GotGap
    | GotForgotten
    | GotStillWanted
    | GotResult
    | GotWelcome
)


WorkerEvent = (
    GotSubmit
    | GotCancel
    | Approved
    | Refused
    | Expired
    | Connected
    | Restarted
    | StoreRestored
    | GotWanted
    | Slot
    | Looked
    | GotSubscribe
    | Flow
    | GotResultAck
)
