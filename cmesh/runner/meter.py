"""What a run has used, held against its limits: a word at 80 %, and when it must be stopped. Pure.

INVARIANT: what it says follows from the bytes of the output alone, as the events do, so that it
says each thing once, over all restarts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from cmesh.model import Limits, Usage
from cmesh.runner.task_files import replace

__all__ = ["WARN_AT", "Meter", "Spent", "Terms", "Used", "note_terms", "noted_terms"]

WARN_AT = 0.8
"""Part of a limit at which its task is warned of."""

_FILE = "limits"


@dataclass(slots=True)
class Used:
    """What a run has used so far, as its output tells it.

    Attributes:
        turns: answers of the model, subagents' too.
        told_tokens: it has told any.
        cost_usd: of the whole conversation where the runner adds it up.
    """

    turns: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    told_tokens: bool = False
    cost_usd: float | None = None

    def tell_tokens(self, told: Usage) -> None:
        """Take what a line says of the whole run."""
        self.tokens_in, self.tokens_out = told.tokens_in or 0, told.tokens_out or 0
        self.told_tokens = told.tokens is not None

    def usage(self) -> Usage:
        """Return it as a result tells it."""
        return Usage(
            cost_usd=self.cost_usd,
            tokens_in=self.tokens_in if self.told_tokens else None,
            tokens_out=self.tokens_out if self.told_tokens else None,
            turns=self.turns or None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A limit of which enough is used to say so."""

    limit: str
    used: float
    most: float

    @property
    def words(self) -> str:
        """Return which limit, and how much of it, for people."""
        unit = _UNITS[self.limit]
        return f"{self.used:g} of {self.most:g} {unit} used"

    def data(self) -> dict[str, object]:
        """Return it as an event's data."""
        return {"limit": self.limit, "used": self.used, "most": self.most}


_UNITS = {
    "turns": "turns",
    "tokens": "tokens",
    "cost_usd": "USD",
    "output_bytes": "bytes of output",
    "runtime_s": "seconds",
}


@parsed(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a task's run is held to: noted in its directory when it is started.

    Attributes:
        own: limits that the program keeps to by itself; the worker steps in beyond them.
        cost_before: US dollars of earlier turns, where the runner adds those to its own.
    """

    turns: int | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    output_bytes: int | None = None
    runtime_s: int | None = None
    own: frozenset[str] = field(default_factory=frozenset[str])
    cost_before: float = 0.0


_TERMS: TypeAdapter[Terms] = TypeAdapter(Terms)


class Meter:
    """Holds one run to its terms; time is not its concern.

    Attributes:
        spent: the limit that is spent, so that the run must be stopped; None = none yet.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.spent: Spent | None = None
        self._warned: set[str] = set()
        self._turns = self._tokens = 0
        self._cost_usd = 0.0

    def go_on(self, used: Used, *, adds_up_cost: bool, adds_up_tokens: bool) -> None:
        """Count what a turn has used beside what the next one will say, unless that says both."""
        self._turns += used.turns
        self._tokens += 0 if adds_up_tokens else used.tokens_in + used.tokens_out
        self._cost_usd += 0.0 if adds_up_cost else used.cost_usd or 0.0

    def reached(self, used: Used) -> Spent | None:
        """Return a limit of which nothing is left for another turn; None = there is of each."""
        counts = self._counts(used)
        return next(
            (
                Spent(limit=name, used=count, most=most)
                for name, (count, most) in counts.items()
                if most is not None and count >= most
            ),
            None,
        )

    def look(self, used: Used, kept: int, *, goes_on: bool, full: bool) -> list[Spent]:
        """Return what is to be warned of now, each limit once; may set `spent`.

        `kept` are bytes of output so far. `goes_on`: the model is about to be asked again, or
        was: a run that ends by itself is never stopped for what it has used. `full`: one whose
        output is full is stopped, because nothing more of it can be counted.
        """
        terms = self.terms
        counts = {**self._counts(used), "output_bytes": (kept, terms.output_bytes)}
        found: list[Spent] = []
        for name, (count, most) in counts.items():
            if most is None or count < WARN_AT * most:
                continue
            spent = Spent(limit=name, used=count, most=most)
            if name not in self._warned:
                self._warned.add(name)
                found.append(spent)
            stops = full if name == "output_bytes" else goes_on
            over = count > most if name == "turns" and name in terms.own else count >= most
            if stops and over and self.spent is None:
                self.spent = spent
        return found

    def _counts(self, used: Used) -> Mapping[str, tuple[float, float | None]]:
        """Return how much of each limit is used, and the limit."""
        terms, cost_usd = self.terms, self._cost_usd + (used.cost_usd or 0.0)
        return {
            "turns": (self._turns + used.turns, terms.turns),
            "tokens": (self._tokens + used.tokens_in + used.tokens_out, terms.tokens),
            "cost_usd": (max(0.0, cost_usd - terms.cost_before), terms.cost_usd),
        }


def note_terms(directory: Path, limits: Limits, own: frozenset[str], cost_before: float) -> None:
    """Write down what a task is held to; its directory is there. Not durable.

    Raises:
        OSError: the disk refuses.
    """
    terms = {
        "turns": limits.turns,
        "tokens": limits.tokens,
        "cost_usd": limits.cost_usd,
        "output_bytes": limits.output_bytes,
        "runtime_s": limits.runtime_s,
        "own": sorted(own),
        "cost_before": cost_before,
    }
    replace(directory / _FILE, json.dumps(terms).encode())


def noted_terms(directory: Path) -> Terms | None:
    """Return what was noted for a task; None = nothing, as by an older version."""
    try:
        return _TERMS.validate_json((directory / _FILE).read_bytes())
    except (OSError, ValidationError):
        return None
