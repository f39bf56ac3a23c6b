"""What a task has used, and what it was to stay within, in words."""

from cmesh.daemon.answers import TaskView
from cmesh.interfaces.cli import output

__all__ = ["bill", "bill_facts"]


def bill(view: TaskView) -> str:
    """Return what a task has cost, short; empty = nobody says."""
    parts = [_money(view.cost_usd), _count(view.tokens, "tokens")]
    return ", ".join(filter(None, parts))


def bill_facts(view: TaskView) -> list[tuple[str, str]]:
    """Return what a task has used beside what it was to stay within."""
    limits = view.limits
    return [
        ("cost", _of(_money(view.cost_usd), _money(limits.cost_usd))),
        ("tokens", _of(_count(view.tokens), _count(limits.tokens))),
        ("model turns", _of(_count(view.model_turns), _count(limits.turns))),
        ("time limit", output.duration(limits.runtime_s) if limits.runtime_s else ""),
    ]


def _of(used: str, most: str) -> str:
    if not most:
        return used
    return f"{used or 'not told'} of {most}"


def _money(usd: float | None) -> str:
    return "" if usd is None else f"{usd:.4f} USD"


def _count(count: int | None, unit: str = "") -> str:
    return "" if count is None else f"{count} {unit}".rstrip()
