"""Which columns hold texts that can be erased, and what the chain keeps of them. Pure.

The one list of them: rows are written, erased and checked by it. What is not named here is
never erased: ids, states, times, limits, costs, who asked whom, the rule, the directory.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cmesh.store.chain import canonical
from cmesh.store.fold import GAP, GRANTED

__all__ = [
    "ERASABLE",
    "FORGOTTEN",
    "KEPT_FACTS",
    "SALTED_SINCE",
    "TEXTS_ERASED",
    "Erasures",
    "erasable",
    "is_empty",
    "ranges",
    "reseal",
    "sealed",
]

TEXTS_ERASED = "texts_erased"
"""Audit word: the rows whose texts go in the same transaction that brings it into the database."""

FORGOTTEN = "forgotten"
"""Audit word: tasks that somebody asked to forget, and who; the erasing rows follow it."""

SALTED_SINCE = 3
"""The first version of canonical texts that has no text in the clear: none is resealed."""

KEPT_FACTS = frozenset({GAP, GRANTED})
"""Facts whose data are cmesh's own numbers, which sums over tasks still need."""

ERASABLE: Mapping[str, frozenset[str]] = {
    # Digests without a salt and signatures over texts are as good as a short text: who guesses
    # it can check the guess.
    "task_row": frozenset(
        {"prompt", "payload_hash", "accept", "artifacts", "changes", "answer_schema"}
    ),
    "step_row": frozenset({"reason", "data"}),
    "event_row": frozenset({"text", "data"}),
    "decision_row": frozenset({"reason", "failed"}),
    "result_row": frozenset(
        {
            *("text", "error", "evidence", "answer", "output_sha256", "basis", "patch"),
            *("artifacts", "extra", "worker_signature", "caller_signature"),
        }
    ),
    "receipt_row": frozenset({"signature"}),
    "audit_row": frozenset({"data"}),
}

_EMPTY = (None, "", "{}", "[]")  # compared by their lengths first, where a set would hash a text
_RESEALED = "resealed"


def is_empty(value: object) -> bool:
    """Say whether a column's value tells nothing, so that no digest need stand for it."""
    return value in _EMPTY


def erasable(told: Mapping[str, Any]) -> frozenset[str]:
    """Return the columns with texts of the row that a canonical text, read, tells of."""
    columns = ERASABLE.get(told["table"], frozenset[str]())
    if told["table"] == "step_row" and told.get("name") in KEPT_FACTS:
        return columns - {"data"}
    return columns


def reseal(canon: str) -> str:
    """Return a row's canonical text of before version 3 without the texts it had in the clear.

    Its hash is not that of the row any more: a later row of the chain must name `sealed` of it.
    """
    told = cast("dict[str, Any]", json.loads(canon))
    gone = erasable(told)
    return canonical({k: v for k, v in told.items() if k not in gone} | {_RESEALED: True})


def sealed(canon: str) -> str:
    """Return the SHA-256, in hex, by which a row of the chain vouches for a canonical text."""
    return hashlib.sha256(canon.encode()).hexdigest()


def ranges(seqs: Iterable[int]) -> list[list[int]]:
    """Return ascending numbers as `[first, last]` pairs."""
    found: list[list[int]] = []
    for seq in seqs:
        if found and found[-1][1] + 1 == seq:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return found


@dataclass(slots=True)
class Erasures:
    """Which rows the chain says were erased, and its digests of texts that were resealed.

    Some ten bytes in memory for each run of rows; a hundred for each row of before version 3.
    """

    _first: list[int] = field(default_factory=list[int])
    _last: list[int] = field(default_factory=list[int])
    _sealed: dict[int, str] = field(default_factory=dict[int, str])

    @classmethod
    def of(cls, told: Sequence[tuple[int, str]]) -> "Erasures":
        """Make them from (number, JSON data) of every row `TEXTS_ERASED`."""
        runs, vouched = list[tuple[int, int]](), dict[int, str]()
        for by_seq, data in told:
            try:
                named = cast("dict[str, Any]", json.loads(data))
                # A row can only tell of rows before it.
                runs += [(a, b) for a, b in named.get("rows", ()) if a <= b < by_seq]
                vouched |= {s: sha for s, sha in named.get(_RESEALED, ()) if s < by_seq}
            except (ValueError, TypeError, AttributeError):
                continue  # it is not as it was written, which the look at that row will find
        made = cls(_sealed=vouched)
        for first, last in sorted(runs):
            if made._last and first <= made._last[-1] + 1:
                made._last[-1] = max(made._last[-1], last)
            else:
                made._first.append(first)
                made._last.append(last)
        return made

    def cover(self, seq: int) -> bool:
        """Say whether a row's texts were erased."""
        at = bisect_right(self._first, seq) - 1
        return at >= 0 and seq <= self._last[at]

    def meet(self, first: int, last: int) -> bool:
        """Say whether the texts of one of these rows were erased."""
        at = bisect_right(self._first, last) - 1
        return at >= 0 and self._last[at] >= first

    def vouch(self, seq: int, canon: str) -> bool:
        """Say whether the chain names this as the text that a row was resealed with.

        That is the word of whoever wrote the later row: it proves less than a hash of its time.
        So it counts only for rows of before `SALTED_SINCE`.
        """
        if self._sealed.get(seq) != sealed(canon) or not self.cover(seq):
            return False
        told = cast("dict[str, Any]", json.loads(canon))
        return told.get(_RESEALED) is True and told.get("v", SALTED_SINCE) < SALTED_SINCE
