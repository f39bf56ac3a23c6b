"""What a run of the chaos suite has done to its machines so far, and what it measured."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """What was done so far.

    Attributes:
        points: how often each named point had its turn.
        reached: the points at which a daemon or a shim has died.
        shim_reports_s: from a shim's end to the worker's word of it.
        sessions: agents' sessions that went on after their daemon's end.
        gaps_s: from a replaced daemon's last answer to the next one's first.
        slow: ends of shims that were told too late, in words.
    """

    faults: Counter[str] = field(default_factory=Counter[str])
    points: Counter[str] = field(default_factory=Counter[str])
    reached: set[str] = field(default_factory=set[str])
    shims: int = 0
    agents: int = 0
    relays: int = 0
    sessions: int = 0
    shim_reports_s: list[float] = field(default_factory=list[float])
    gaps_s: list[float] = field(default_factory=list[float])
    slow: list[str] = field(default_factory=list[str])
