"""Judges a run: the runner program's ledger against both stores and what callers were told.

Pure. It believes the ledger, because nothing of cmesh writes it, and no store's word about
itself. Every fault it finds is a sentence, so that a red run says where to look.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cmesh.model import TERMINAL

__all__ = ["Asked", "Entry", "Row", "Verdict", "judge", "read_ledger"]

ENDED = frozenset(str(state.value) for state in TERMINAL)

# A state told later must not stand before one told earlier; of one rank, either may follow.
_TOLD = {
    "submitting": 0,
    "queued": 1,
    "waiting_approval": 1,
    "running": 2,
    "waiting_input": 2,
    "cancelling": 2,
}
# Internal names, as the stores' logs hold them; `queued` is the caller's "never sent".
_STORED = {"queued": 0, "sent": 1, "waiting": 1, "accepted": 2, "intent": 3, "running": 4}
_END_RANK = 5
_UNSTARTED = ("before anything was started", "never sent", "before a start")
_NEVER_RAN = frozenset({"denied", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger. `exit` says something at a finish only."""

    what: str
    task: str
    key: str
    nonce: str
    exit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A task in one store.

    Attributes:
        reached: its states in the order the log holds them, by their internal names.
    """

    state: str
    code: str = ""
    reason: str = ""
    witness: str = ""
    exit_code: int | None = None
    receipt: str = "complete"
    reached: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Asked:
    """What a client knows of one key.

    Attributes:
        task_ids: every id that was answered for the key; more than one is a fault.
        told: the states answered, in order.
        excused: the harness killed its shim, so `interrupted` is the honest end.
        touched: the harness killed its agent, so a failure without a finish is honest.
    """

    key: str
    task_ids: set[str] = field(default_factory=set[str])
    told: list[str] = field(default_factory=list[str])
    cancelled: bool = False
    excused: bool = False
    touched: bool = False


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found; each fault in words."""

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    wrong_state: list[str] = field(default_factory=list[str])
    orphans: list[str] = field(default_factory=list[str])
    interrupted: int = 0
    states: Counter[str] = field(default_factory=Counter[str])

    @property
    def faults(self) -> list[str]:
        """Every fault, the kind before it."""
        kinds = {
            "lost": self.lost,
            "doubled": self.doubled,
            "wrong_state": self.wrong_state,
            "orphan": self.orphans,
        }
        return [f"{kind}: {text}" for kind, texts in kinds.items() for text in texts]


def read_ledger(text: str) -> list[Entry]:
    """Read the ledger; a line torn by a kill in its middle is no entry."""
    entries: list[Entry] = []
    for line in text.splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        names = ("what", "task", "key", "nonce", "exit")
        entries.append(Entry(**{name: fields[name] for name in names}))
    return entries


def judge(
    asked: Iterable[Asked],
    ledger: Sequence[Entry],
    caller: Mapping[str, Row],
    worker: Mapping[str, Row],
    processes: Iterable[str] = (),
) -> Verdict:
    """Compare; `caller` and `worker` are the stores' rows by task id, after all has settled.

    `processes` names what still runs with a task's marker.
    """
    verdict = Verdict(orphans=list(processes))
    starts = [entry for entry in ledger if entry.what == "start"]
    for name in ("task", "key"):
        for value, count in Counter(getattr(entry, name) for entry in starts).items():
            if count > 1:
                verdict.doubled.append(f"{name} {value} started {count} times")
    known: set[str] = set()
    for one in asked:
        if len(one.task_ids) > 1:
            verdict.doubled.append(f"key {one.key} has {len(one.task_ids)} tasks")
        known |= one.task_ids
        for task_id in one.task_ids:
            _task(verdict, one, task_id, caller.get(task_id), worker.get(task_id))
            mine = [entry for entry in ledger if entry.task == task_id]
            _ledger(verdict, one, mine, worker.get(task_id) or caller.get(task_id))
    for entry in starts:
        if entry.task not in worker:
            verdict.wrong_state.append(f"task {entry.task} ran, and the worker does not know it")
        if entry.task not in known:
            verdict.wrong_state.append(f"task {entry.task} ran, and nobody was told its id")
    return verdict


def _task(verdict: Verdict, one: Asked, task_id: str, here: Row | None, there: Row | None) -> None:
    """Look at one acknowledged task on both sides."""
    if here is None:
        verdict.lost.append(f"task {task_id}: the caller's store has no row")
        return
    verdict.states[here.state] += 1
    _ended(verdict, f"task {task_id} on the caller", here)
    _forward(verdict, f"task {task_id} in the caller's log", here.reached, _STORED)
    _forward(verdict, f"task {task_id} as told", one.told, _TOLD)
    if "unknown" in here.reached:
        verdict.wrong_state.append(f"task {task_id}: called forgotten, and no store was put back")
    if here.state == "interrupted":
        verdict.interrupted += 1
        if not one.excused:
            verdict.wrong_state.append(f"task {task_id}: interrupted, and its shim was not killed")
    if one.told and one.told[-1] in ENDED and one.told[-1] != here.state:
        verdict.wrong_state.append(f"task {task_id}: told {one.told[-1]}, is {here.state}")
    if there is not None:
        _both(verdict, task_id, here, there)
    elif here.state not in {"cancelled", "expired"} or "sent" in here.reached:
        # Only what was never sent may end without the worker.
        verdict.lost.append(f"task {task_id}: {here.state} here, and the worker has no row")


def _ended(verdict: Verdict, what: str, row: Row) -> None:
    """Note a task that has no end, or an interruption without a cause."""
    if row.state not in ENDED:
        verdict.lost.append(f"{what}: not ended: {row.state}")
    elif row.state == "interrupted" and not row.reason:
        verdict.lost.append(f"{what}: interrupted without a cause")


def _both(verdict: Verdict, task_id: str, here: Row, there: Row) -> None:
    """Compare the two sides."""
    _ended(verdict, f"task {task_id} on the worker", there)
    _forward(verdict, f"task {task_id} in the worker's log", there.reached, _STORED)
    if (here.state, here.exit_code, here.code) != (there.state, there.exit_code, there.code):
        verdict.wrong_state.append(
            f"task {task_id}: caller {here.state}/{here.exit_code}/{here.code},"
            f" worker {there.state}/{there.exit_code}/{there.code}"
        )
    if (here.receipt, there.receipt) != ("complete", "complete"):
        verdict.wrong_state.append(
            f"task {task_id}: receipts {here.receipt} here, {there.receipt} there"
        )


def _ledger(verdict: Verdict, one: Asked, mine: Sequence[Entry], row: Row | None) -> None:
    """Compare a state with what the runner program noted."""
    if row is None:
        return
    finish = next((entry for entry in mine if entry.what == "finish"), None)
    started = any(entry.what == "start" for entry in mine)
    exits = {entry.exit for entry in mine if entry.what == "finish"}
    says = f"key {one.key}: {row.state}/{row.exit_code}"
    if any(entry.key != one.key for entry in mine):
        verdict.wrong_state.append(f"{says}, and the ledger has another key")
    if row.state == "succeeded" and exits != {0}:
        verdict.wrong_state.append(f"{says}, and the ledger has exits {sorted(exits)}")
    if row.state == "failed" and finish is not None and row.exit_code != finish.exit:
        verdict.wrong_state.append(f"{says}, and the ledger has exit {finish.exit}")
    if row.state == "failed" and finish is None and not one.touched:
        verdict.wrong_state.append(f"{says}, and the ledger has no finish")
    # A worker that had committed to start it, and then found its time over, cancels it itself.
    late = row.code == "expired" and not started
    if row.state == "cancelled" and not one.cancelled and not late:
        verdict.wrong_state.append(f"{says}, and nobody asked for it")
    if row.state in _NEVER_RAN and started:
        verdict.wrong_state.append(f"{says}, and the ledger has a start")
    if started and any(words in row.witness for words in _UNSTARTED):
        verdict.wrong_state.append(f"{says} {row.witness!r}, and the ledger has a start")


def _forward(verdict: Verdict, what: str, states: Sequence[str], ranks: Mapping[str, int]) -> None:
    """Note a state that went back, or one after an end."""
    highest = 0
    for before, after in zip(("", *states), states, strict=False):
        if before in ENDED and after != before:
            verdict.wrong_state.append(f"{what}: {after} after {before}")
        rank = _END_RANK if after in ENDED else ranks.get(after)
        if rank is None:  # `unknown` stands outside the order
            continue
        if rank < highest:
            verdict.wrong_state.append(f"{what}: {after} after a later state")
        highest = max(highest, rank)
