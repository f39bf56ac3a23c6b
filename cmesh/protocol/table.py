"""The rows of a task's life, one table a side: state, event, guards, writes, messages, next.

Row ids are those of the checked model of the protocol; rows with one id are its
cases. Data only: `cmesh.protocol.state` looks up, the docs' drawing is made from here.
"""

from functools import partial
from typing import Final

from cmesh.model import TaskState
from cmesh.protocol.facts import (
    ACCEPTED,
    INTENT,
    KNOWN,
    OPEN,
    QUEUED,
    RUNNING,
    SENT,
    STARTED,
    TERMINALS,
    UNKNOWN,
    UNSTARTED,
    WAITING,
)
from cmesh.protocol.happenings import (
    Approved,
    Connected,
    Delegated,
    Expired,
    Flow,
    GotAccepted,
    GotCancel,
    GotDenied,
    GotEvent,
    GotForgotten,
    GotGap,
    GotResult,
    GotResultAck,
    GotStillWanted,
    GotSubmit,
    GotSubscribe,
    GotWanted,
    GotWelcome,
    LinkUp,
    Looked,
    Refused,
    Restarted,
    Slot,
    StoreRestored,
    UserCancels,
)
from cmesh.protocol.row import REPORTED, Act, Row, Send, Write

__all__ = [
    "CALLER",
    "WORKER",
]


_TASK, _STATE, _EVENT = Write("task"), Write("state"), Write("event")
_RESULT, _RECEIPT, _GAP = Write("result"), Write("receipt"), Write("fact", "gap")
_CANCEL_WISH, _EXPIRY_WISH = Write("fact", "cancel_wish"), Write("fact", "expiry_wish")
_LATE, _ACKNOWLEDGED = Write("fact", "late"), Write("fact", "acknowledged")
_RESTORED = Write("fact", "restored")
_END = (_STATE, _RESULT)  # a worker never ends a task without the signed result
_MORE = (_EVENT, _STATE)

_NEW: tuple[str | None, ...] = (None,)
_DENIED, _INTERRUPTED = TaskState.DENIED.value, TaskState.INTERRUPTED.value
_CANCELLED, _EXPIRED = TaskState.CANCELLED.value, TaskState.EXPIRED.value
_SENT_ONCE = (*OPEN, *TERMINALS)
_NOT_DENIED = tuple(state for state in KNOWN if state != _DENIED)

_C = partial(Row, side="caller")
_W = partial(Row, side="worker")

CALLER: Final[tuple[Row, ...]] = (
    _C("C1", _NEW, Delegated, write=(_TASK, _STATE), next=QUEUED),
    # INVARIANT: `sent` is durable before a byte of the submit leaves.
    _C("C2", (QUEUED,), LinkUp, write=(_STATE,), out=(Send.SUBMIT, Send.SUBSCRIBE), next=SENT),
    _C("C3", (QUEUED,), UserCancels, write=(_STATE,), next=_CANCELLED),
    _C("C4", (QUEUED,), Expired, write=(_STATE,), next=_EXPIRED),
    _C("C5", (SENT,), Connected, ("no wish", "same store"), out=(Send.SUBMIT, Send.SUBSCRIBE)),
    _C("C6", (ACCEPTED,), Connected, ("no wish", "same store"), out=(Send.SUBSCRIBE,)),
    _C("C7", OPEN, Connected, ("wish: user", "same store"), out=(Send.CANCEL_USER, Send.SUBSCRIBE)),
    _C(
        "C7",
        OPEN,
        Connected,
        ("wish: expired", "same store"),
        out=(Send.CANCEL_EXPIRED, Send.SUBSCRIBE),
    ),
    _C(
        "C8",
        OPEN,
        UserCancels,
        ("not cancelled by the user", "link open"),
        write=(_CANCEL_WISH,),
        out=(Send.CANCEL_USER,),
    ),
    _C("C8", OPEN, UserCancels, ("not cancelled by the user", "no link"), write=(_CANCEL_WISH,)),
    _C("C8", OPEN, UserCancels, ("wish: user",)),
    _C(
        "C9",
        OPEN,
        Expired,
        ("no wish", "link open"),
        write=(_EXPIRY_WISH,),
        out=(Send.CANCEL_EXPIRED,),
    ),
    _C("C9", OPEN, Expired, ("no wish", "no link"), write=(_EXPIRY_WISH,)),
    _C("C9", OPEN, Expired, ("wish",)),
    _C("C10", (SENT,), GotAccepted, write=(_STATE,), next=ACCEPTED),
    _C("C10", (ACCEPTED, *TERMINALS), GotAccepted),
    _C("C11", OPEN, GotDenied, write=(_STATE,), next=_DENIED),
    _C("C11", (_DENIED,), GotDenied),
    # A denial can overtake the events of its own task: `denied` answers a repeated submit.
    _C("C12", (*OPEN, _DENIED), GotEvent, ("n = last + 1", "no evidence yet"), write=(_EVENT,)),
    _C("C13", _SENT_ONCE, GotEvent, ("n ≤ last",)),
    _C("C14", (*OPEN, _DENIED), GotGap, ("n > last", "no evidence yet"), write=(_GAP,)),
    _C("C14", _SENT_ONCE, GotGap, ("n ≤ last",)),
    _C(
        "C15",
        OPEN,
        GotStillWanted,
        ("no wish", "same store", "not told that it ran"),
        out=(Send.WANTED,),
    ),
    # INVARIANT: a restored store may have forgotten that the task ran; a yes would run it again.
    _C("C16", OPEN, GotStillWanted, ("no wish", "another store")),
    _C("C16", OPEN, GotStillWanted, ("no wish", "same store", "told that it ran")),
    _C("C16", OPEN, GotStillWanted, ("wish",)),
    _C("C16", TERMINALS, GotStillWanted),
    _C(
        "C17",
        OPEN,
        GotResult,
        ("s is terminal", "n = last"),
        write=(_STATE, _RESULT),
        out=(Send.RESULT_ACK,),
        next=REPORTED,
    ),
    _C("C18", TERMINALS, GotResult, ("s = own state", "evidence kept"), out=(Send.RESULT_ACK,)),
    _C(
        "C18",
        TERMINALS,
        GotResult,
        ("s = own state", "n = last", "no evidence yet"),
        write=(_RESULT,),
        out=(Send.RESULT_ACK,),
    ),
    _C("C19", TERMINALS, GotWelcome, ("evidence kept",), out=(Send.RESULT_ACK,)),
    # Nothing to sign yet: fetch the result, C18 stores and acknowledges it.
    _C("C19", TERMINALS, GotWelcome, ("no evidence yet",), out=(Send.SUBSCRIBE,)),
    _C("C20", OPEN, GotWelcome),
    # C21 to C23 are not in the model: a restored store, late local events, another store.
    _C("C21", (None, QUEUED), GotWelcome),
    _C("C22", TERMINALS, UserCancels),
    _C("C22", TERMINALS, Expired),
    _C("C22", TERMINALS, Connected),
    _C("C22", TERMINALS, LinkUp),
    _C("C23", (*OPEN, UNKNOWN), Connected, ("another store",)),
    # Nor is C24: the worker's store was put back to an older copy, and nobody had noticed.
    _C("C24", (ACCEPTED,), GotForgotten, write=(_STATE,), next=UNKNOWN),
    _C("C24", (QUEUED, SENT, UNKNOWN, *TERMINALS), GotForgotten),
    # INVARIANT: only followed, since its shim may have kept what the store lost. A cancel would
    # make a tombstone of it there, whose end is a lie.
    _C("C24", (UNKNOWN,), Connected, ("same store",), out=(Send.SUBSCRIBE,)),
    _C("C24", (UNKNOWN,), UserCancels, ("not cancelled by the user",), write=(_CANCEL_WISH,)),
    _C("C24", (UNKNOWN,), UserCancels, ("wish: user",)),
    _C("C24", (UNKNOWN,), Expired, ("no wish",), write=(_EXPIRY_WISH,)),
    _C("C24", (UNKNOWN,), Expired, ("wish",)),
    _C("C24", (UNKNOWN,), GotEvent, ("n ≤ last",)),
    _C("C24", (UNKNOWN,), GotEvent, ("n = last + 1", "no wish"), write=_MORE, next=ACCEPTED),
    _C(
        "C24",
        (UNKNOWN,),
        GotEvent,
        ("n = last + 1", "wish: user"),
        write=_MORE,
        out=(Send.CANCEL_USER,),
        next=ACCEPTED,
    ),
    _C(
        "C24",
        (UNKNOWN,),
        GotEvent,
        ("n = last + 1", "wish: expired"),
        write=_MORE,
        out=(Send.CANCEL_EXPIRED,),
        next=ACCEPTED,
    ),
    _C("C24", (UNKNOWN,), GotGap, ("n ≤ last",)),
    _C("C24", (UNKNOWN,), GotGap, ("n > last",), write=(_GAP, _STATE), next=ACCEPTED),
    _C(
        "C24",
        (UNKNOWN,),
        GotResult,
        ("s is terminal", "n = last", "n > 0"),
        write=(_STATE, _RESULT),
        out=(Send.RESULT_ACK,),
        next=REPORTED,
    ),
    _C("C24", (UNKNOWN,), GotResult, ("s is terminal", "n = last", "n = 0")),
    _C("C24", (UNKNOWN,), GotAccepted),
    _C("C24", (UNKNOWN,), GotDenied),
    _C("C24", (UNKNOWN,), GotStillWanted),
    _C("C24", (UNKNOWN,), GotWelcome),
)

WORKER: Final[tuple[Row, ...]] = (
    _W(
        "W1",
        _NEW,
        GotSubmit,
        ("policy allows", "no turn before, or a ready one", "it did not wait"),
        write=(_TASK, _STATE),
        out=(Send.ACCEPTED,),
        next=ACCEPTED,
    ),
    _W(
        "W1",
        _NEW,
        GotSubmit,
        ("policy allows", "no turn before, or a ready one", "it waited"),
        write=(_TASK, _STATE, _LATE),
        out=(Send.ACCEPTED,),
        next=ACCEPTED,
    ),
    _W(
        "W2",
        _NEW,
        GotSubmit,
        ("policy asks", "no turn before, or a ready one"),
        write=(_TASK, _STATE),
        out=(Send.ACCEPTED,),
        next=WAITING,
    ),
    _W(
        "W3",
        _NEW,
        GotSubmit,
        ("policy denies",),
        write=(_TASK, *_END),
        out=(Send.DENIED,),
        next=_DENIED,
    ),
    _W(
        "W3",
        _NEW,
        GotSubmit,
        ("policy allows or asks", "the turn before is not ready"),
        write=(_TASK, *_END),
        out=(Send.DENIED,),
        next=_DENIED,
    ),
    _W("W4", _NOT_DENIED, GotSubmit, ("same hash",), out=(Send.ACCEPTED,)),
    _W("W4", (_DENIED,), GotSubmit, ("same hash",), out=(Send.DENIED,)),
    _W("W4", KNOWN, GotSubmit, ("other hash",), out=(Send.CONFLICT,)),
    # INVARIANT: an unknown id leaves a tombstone, so that a late submit cannot run.
    _W("W5", _NEW, GotCancel, ("reason: user",), write=(_TASK, *_END), next=_CANCELLED),
    _W("W5", _NEW, GotCancel, ("reason: expired",), write=(_TASK, *_END), next=_EXPIRED),
    _W("W6", UNSTARTED, GotCancel, ("reason: user",), write=_END, next=_CANCELLED),
    _W("W6", UNSTARTED, GotCancel, ("reason: expired",), write=_END, next=_EXPIRED),
    _W("W7", STARTED, GotCancel, ("reason: user", "no wish"), write=(_CANCEL_WISH,)),
    _W("W7", STARTED, GotCancel, ("reason: user", "wish")),
    _W("W8", STARTED, GotCancel, ("reason: expired",)),
    _W("W8", TERMINALS, GotCancel),
    _W("W9", (WAITING,), Approved, write=(_STATE, _LATE, _EVENT), next=ACCEPTED),
    _W("W9", (WAITING,), Refused, write=_END, next=_DENIED),
    # Wider than the model (there: only when late): `not_after` holds for a slot's queue too.
    _W("W10", UNSTARTED, Expired, write=_END, next=_EXPIRED),
    _W("W10", (*STARTED, *TERMINALS), Expired),
    _W(
        "W11",
        (ACCEPTED,),
        Connected,
        ("late, not asked on this connection",),
        out=(Send.STILL_WANTED,),
        act=(Act.ASKED,),
    ),
    _W("W11", (ACCEPTED,), Connected, ("not late, or asked already",)),
    _W("W11", (WAITING, *STARTED), Connected),
    _W("W12", (ACCEPTED,), GotWanted, act=(Act.WANTED,)),
    _W("W12", (WAITING, *STARTED, *TERMINALS), GotWanted),
    _W("W13", (ACCEPTED,), Slot, ("not late, or yes in this life",), write=(_STATE,), next=INTENT),
    _W("W13", (ACCEPTED,), Slot, ("late without a yes in this life",)),
    # INVARIANT: before W17. A lost row may have run, so nothing is said of a start.
    _W(
        "W30",
        (INTENT,),
        Looked,
        ("claim is W's own", "the store was restored"),
        write=_END,
        next=_INTERRUPTED,
    ),
    _W("W17", (INTENT,), Looked, ("claim is W's own",), write=_END, next=_CANCELLED),
    _W("W15", (INTENT,), Looked, ("pid record",), write=(_STATE, _EVENT), next=RUNNING),
    _W(
        "W14",
        (INTENT,),
        Looked,
        ("no wish", "no claim", "no living child of this life"),
        act=(Act.SPAWN,),
    ),
    _W("W16", (INTENT,), Looked, ("wish", "no claim"), act=(Act.BURN,)),
    _W(
        "W18",
        STARTED,
        Looked,
        ("wish", "claim is a shim's", "owner alive", "not told to end in this life"),
        act=(Act.END,),
    ),
    _W("W19", STARTED, Looked, ("spool longer than store",), write=(_EVENT,)),
    _W("W20", STARTED, Looked, ("result file", "all events stored"), write=_END, next=REPORTED),
    _W(
        "W21",
        STARTED,
        Looked,
        (
            "wish",
            "was claimed by a shim",
            "owner dead",
            "no result file",
            "all events stored",
            "zero processes counted",
        ),
        write=_END,
        next=_CANCELLED,
    ),
    _W(
        "W21",
        STARTED,
        Looked,
        (
            "no wish",
            "was claimed by a shim",
            "owner dead",
            "no result file",
            "all events stored",
            "zero processes counted",
        ),
        write=_END,
        next=_INTERRUPTED,
    ),
    _W("W22", KNOWN, GotSubscribe, ("n ≤ last event",), act=(Act.FOLLOW,)),
    _W("W22", _NEW, GotSubscribe, out=(Send.UNKNOWN,)),
    # Not in the model: this store was put back to an older copy, or the caller lies.
    _W("W22", KNOWN, GotSubscribe, ("n > last event",), out=(Send.FORGOTTEN,)),
    _W("W23", KNOWN, Flow, ("cursor < last event, next is kept",), out=(Send.EVENT,)),
    _W("W23", KNOWN, Flow, ("cursor < last event, next is gone",), out=(Send.GAP,)),
    _W("W24", TERMINALS, Flow, ("cursor at the end, not told",), out=(Send.END, Send.RESULT)),
    _W("W25", TERMINALS, GotResultAck, ("not acknowledged",), write=(_ACKNOWLEDGED, _RECEIPT)),
    _W("W25", TERMINALS, GotResultAck, ("acknowledged",)),
    _W("W26", TERMINALS, Connected, ("not acknowledged",), out=(Send.UNACKNOWLEDGED,)),
    _W("W26", TERMINALS, Connected, ("acknowledged",)),
    _W("W27", TERMINALS, Looked, ("acknowledged", "directory exists"), act=(Act.DISCARD,)),
    # W28 is the model's silence: nothing to do. W29 is its `wipe` of a worker's life.
    _W("W28", KNOWN, Looked, ("otherwise",)),
    _W("W28", KNOWN, Flow, ("otherwise",)),
    _W("W29", (ACCEPTED,), Restarted, ("not late",), write=(_LATE,)),
    _W("W29", (ACCEPTED,), Restarted, ("late already",)),
    _W("W29", (WAITING, *STARTED, *TERMINALS), Restarted),
    # Not in the model: a restored store. The claim is burnt first (W16), so that none can start.
    _W("W30", (INTENT,), StoreRestored, ("no wish",), write=(_CANCEL_WISH, _RESTORED)),
    _W("W30", (INTENT,), StoreRestored, ("wish",)),
    _W("W30", (*UNSTARTED, RUNNING, *TERMINALS), StoreRestored),
)
