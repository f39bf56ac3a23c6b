"""The guards that rows of the task tables name, as predicates over event and facts.

Pure and total: a guard never raises, and asked about another event it is false.
"""

from collections.abc import Callable, Mapping
from typing import Final

from cmesh.protocol.facts import RUNNING, TERMINALS, CallerFacts, WorkerFacts
from cmesh.protocol.happenings import (
    GotCancel,
    GotEvent,
    GotGap,
    GotResult,
    GotSubmit,
    GotSubscribe,
    Looked,
)

__all__ = ["CALLER_GUARDS", "WORKER_GUARDS"]


def _number(event: object) -> int:
    """Return the sequence number an event speaks of; -1 = none."""
    match event:
        case GotEvent(seq=n) | GotGap(through=n) | GotResult(last_seq=n):
            return n
        case GotSubscribe(after_seq=n):
            return n
        case _:
            return -1


def _reachable(facts: CallerFacts) -> bool:
    return facts.connected and not facts.other_store


# A worker that asks about such a task has lost its start: its store was restored.
_RAN = frozenset({"running", "waiting_input", "cancelling"})

CALLER_GUARDS: Final[Mapping[str, Callable[[object, CallerFacts], bool]]] = {
    "no wish": lambda _, f: not f.wish,
    "wish": lambda _, f: bool(f.wish),
    "wish: user": lambda _, f: f.wish == "user",
    "wish: expired": lambda _, f: f.wish == "expired",
    "not cancelled by the user": lambda _, f: f.wish != "user",
    "link open": lambda _, f: _reachable(f),
    "no link": lambda _, f: not _reachable(f),
    "same store": lambda _, f: not f.other_store,
    "another store": lambda _, f: f.other_store,
    "told that it ran": lambda _, f: f.progress in _RAN,
    "not told that it ran": lambda _, f: f.progress not in _RAN,
    "n = last + 1": lambda e, f: _number(e) == f.last_seq + 1,
    "n = last": lambda e, f: _number(e) == f.last_seq,
    "n ≤ last": lambda e, f: 0 <= _number(e) <= f.last_seq,
    "n > last": lambda e, f: _number(e) > f.last_seq,
    "n = 0": lambda e, _: _number(e) == 0,
    "n > 0": lambda e, _: _number(e) > 0,
    "s is terminal": lambda e, _: isinstance(e, GotResult) and e.state in TERMINALS,
    "s = own state": lambda e, f: isinstance(e, GotResult) and e.state == f.state,
    "evidence kept": lambda _, f: f.evidence,
    "no evidence yet": lambda _, f: not f.evidence,
}


def _decides(effect: str) -> Callable[[object, WorkerFacts], bool]:
    return lambda event, _: isinstance(event, GotSubmit) and event.decision == effect


def _because(reason: str) -> Callable[[object, WorkerFacts], bool]:
    return lambda event, _: isinstance(event, GotCancel) and event.reason == reason


def _sees(check: Callable[[Looked], bool]) -> Callable[[object, WorkerFacts], bool]:
    return lambda event, _: isinstance(event, Looked) and check(event)


def _flows(check: Callable[[int, WorkerFacts], bool]) -> Callable[[object, WorkerFacts], bool]:
    return lambda _, facts: facts.cursor is not None and check(facts.cursor, facts)


WORKER_GUARDS: Final[Mapping[str, Callable[[object, WorkerFacts], bool]]] = {
    "policy allows": _decides("allow"),
    "policy asks": _decides("ask"),
    "policy denies": _decides("deny"),
    # The turn before: only a follow-up has one.
    "no turn before, or a ready one": lambda e, _: (
        isinstance(e, GotSubmit) and e.before in {"none", "ready"}
    ),
    "policy allows or asks": lambda e, _: isinstance(e, GotSubmit) and e.decision != "deny",
    "the turn before is not ready": lambda e, _: isinstance(e, GotSubmit) and e.before == "unfit",
    "it waited": lambda e, _: isinstance(e, GotSubmit) and e.waited,
    "it did not wait": lambda e, _: isinstance(e, GotSubmit) and not e.waited,
    "same hash": lambda _, f: f.same_hash,
    "other hash": lambda _, f: not f.same_hash,
    "reason: user": _because("user"),
    "reason: expired": _because("expired"),
    "wish": lambda _, f: f.cancel_wish,
    "no wish": lambda _, f: not f.cancel_wish,
    "late, not asked on this connection": lambda _, f: f.late and not f.asked,
    "not late, or asked already": lambda _, f: not f.late or f.asked,
    "not late, or yes in this life": lambda _, f: not f.late or f.wanted,
    "late without a yes in this life": lambda _, f: f.late and not f.wanted,
    "not late": lambda _, f: not f.late,
    "late already": lambda _, f: f.late,
    "no claim": _sees(lambda look: look.claim == "none"),
    "claim is W's own": _sees(lambda look: look.claim == "burnt"),
    "the store was restored": lambda _, f: f.restored,
    "claim is a shim's": _sees(lambda look: look.claim == "shim"),
    # A task that was running had a claim; losing the file does not undo the run.
    "was claimed by a shim": lambda e, f: (
        isinstance(e, Looked) and (e.claim == "shim" or (e.claim == "none" and f.state == RUNNING))
    ),
    "no living child of this life": _sees(lambda look: not look.child),
    "pid record": _sees(lambda look: look.agent),
    "owner alive": _sees(lambda look: look.owner_alive),
    "owner dead": _sees(lambda look: not look.owner_alive),
    "not told to end in this life": lambda _, f: not f.ending,
    "spool longer than store": _sees(lambda look: not look.stored),
    "all events stored": _sees(lambda look: look.stored),
    "result file": _sees(lambda look: look.result is not None),
    "no result file": _sees(lambda look: look.result is None),
    "zero processes counted": _sees(lambda look: look.processes == 0),
    "directory exists": _sees(lambda look: look.directory),
    "acknowledged": lambda _, f: f.acknowledged,
    "not acknowledged": lambda _, f: not f.acknowledged,
    "n ≤ last event": lambda e, f: 0 <= _number(e) <= f.last_seq,
    "n > last event": lambda e, f: _number(e) > f.last_seq,
    "cursor < last event, next is kept": _flows(
        lambda cursor, f: f.pruned_through <= cursor < f.last_seq
    ),
    "cursor < last event, next is gone": _flows(lambda cursor, f: cursor < f.pruned_through),
    "cursor at the end, not told": _flows(lambda cursor, f: cursor >= f.last_seq and not f.told),
    "otherwise": lambda _e, _f: True,
}
