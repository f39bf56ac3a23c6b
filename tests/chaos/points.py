"""The named points at which a daemon or a shim can be made to die, and who passes by each.

Names only: `tests.chaos.crashing` wraps the product's parts so that they are passed, and
`tests/chaos/test_points.py` holds that the product has what each one names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos.crashing_shim import STEPS

__all__ = [
    "CALLER_POINTS",
    "POINTS",
    "SHIM_POINTS",
    "SUPERVISOR_STEPS",
    "WORKER_POINTS",
    "Passer",
    "passer",
]

SUPERVISOR_STEPS = ("prepare", "spawn", "burn", "end", "discard")
_DISK = ("before journal", "mid journal", "after journal", "before head", "after head")


def _around(*names: str) -> tuple[str, ...]:
    return tuple(f"{when} {name}" for name in names for when in ("before", "after"))


# Commits are named by one of their records: direction, then what it says.
WORKER_POINTS: tuple[str, ...] = (
    *_around(
        "commit in task",
        "commit in state intent",
        "commit in state running",
        "commit in event",
        "commit in result",
        "commit in fact cancel_wish",
        "commit in fact acknowledged",
    ),
    *_around(*SUPERVISOR_STEPS),
    *_around("send accepted", "send event", "send end", "send result", "send receipt"),
    *_DISK,
)
CALLER_POINTS: tuple[str, ...] = (
    *_around(
        "commit out task",
        "commit out state sent",
        "commit out state accepted",
        "commit out event",
        "commit out result",
        "commit out fact cancel_wish",
    ),
    *_around("send submit", "send subscribe", "send result_ack", "send cancel"),
    *_DISK,
)
SHIM_POINTS: tuple[str, ...] = _around(*STEPS.values())
POINTS = len(CALLER_POINTS) + len(WORKER_POINTS) + len(SHIM_POINTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passer:
    """A task that passes by a point for certain.

    Attributes:
        often: more than one task, or one task more than once, passes by.
        unclaimed: no shim may have claimed it when its cancel comes.
    """

    seconds: float = 0.5
    cancel_after_s: float | None = None
    often: bool = True
    unclaimed: bool = False


_RUNS = Passer()
_CANCELLED = Passer(seconds=30, cancel_after_s=0.7, often=False)
_PASSERS: Mapping[str, Passer] = {
    "commit in fact cancel_wish": _CANCELLED,
    "commit out fact cancel_wish": _CANCELLED,
    "send cancel": _CANCELLED,
    "end": _CANCELLED,
    "burn": Passer(seconds=30, cancel_after_s=0.7, often=False, unclaimed=True),
}


def passer(point: str) -> Passer:
    """Return which task passes by a point: one that just runs, unless only others do."""
    return _PASSERS.get(point.partition(" ")[2], _RUNS)
