"""How old what this node knows of a task is, in words. Pure."""

from cmesh.daemon.answers import TaskView
from cmesh.model import ENDED, Direction
from cmesh.text import one_line

__all__ = ["age", "heard"]

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
