"""How old what this node knows of a task is, in words. Pure."""

from cmesh.daemon.answers import KeepsView, TaskView
from cmesh.model import ENDED, Direction
from cmesh.text import one_line

__all__ = ["age", "heard", "kept_text"]

_MINUTE_S = 60
_HOUR_S = 3600
_PEER_CHARACTERS = 63


def heard(view: TaskView) -> str:
    """Return `last heard from WORKER 3 s ago`; empty for a task that is over, or works here."""
    if view.direction is Direction.IN or view.state in ENDED:
        return ""
    peer = one_line(view.peer, _PEER_CHARACTERS)
    if view.known_at is None:
        return f"nothing heard from {peer} yet"
    return f"last heard from {peer} {age(view.known_s)} ago"


def age(seconds: float) -> str:
    """Return seconds in the unit in which a person would say them."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.0f} h"


def kept_text(keeps: KeepsView | None) -> str:
    """Return how long a node keeps what it is given, after a task's end; empty = it is not told."""
    if keeps is None:
        return ""
    texts, files = _days(keeps.text_days), _days(keeps.output_days)
    both = f"texts and files {texts}" if texts == files else f"texts {texts}, files {files}"
    return f"{both}; prompts until the end" if keeps.prompts == "digest" else both


def _days(days: int | None) -> str:
    return "for ever" if days is None else f"for {days} day{'s' * (days != 1)}"
