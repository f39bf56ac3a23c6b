"""What a mistyped name may have meant, as the words of a hint. Pure."""

import difflib
from collections.abc import Sequence

__all__ = ["did_you_mean", "nearest"]

NEAR = 0.66
"""Below it a name is another one: of `difflib`'s ratio, which is 0.83 for one wrong letter of six.

One letter of three may be wrong, and one of two not. See the table of its test."""

SWAPPED = 0.95
"""What two neighbours that changed places count for, which the ratio takes for two mistakes."""


def nearest(name: str, candidates: Sequence[str], *, most: int = 3) -> list[str]:
    """Return at most `most` candidates that `name` may have meant, the nearest first."""
    scored = [(_likeness(name, other), other) for other in dict.fromkeys(candidates)]
    # In the order given among equals: the sort is stable.
    scored.sort(key=lambda one: -one[0])
    return [other for likeness, other in scored[:most] if likeness >= NEAR]


def did_you_mean(name: str, candidates: Sequence[str], *, most: int = 3) -> str:
    """Return the question that names the nearest candidates; empty when none is near."""
    near = nearest(name, candidates, most=most)
    return f"did you mean `{'` or `'.join(near)}`?" if near else ""


def _likeness(name: str, other: str) -> float:
    """Return how alike two names are, 0 to 1; upper and lower case are one."""
    mine, theirs = name.lower(), other.lower()
    kind = mine.partition(":")[0] + ":"
    if ":" in mine and theirs.startswith(kind):
        # `command:` is nobody's slip, and would make any two commands alike.
        mine, theirs = mine.removeprefix(kind), theirs.removeprefix(kind)
    if _is_swapped(mine, theirs):
        return SWAPPED
    return difflib.SequenceMatcher(None, mine, theirs, autojunk=False).ratio()


def _is_swapped(mine: str, theirs: str) -> bool:
    """Say whether two neighbours changed places, and nothing else is different."""
    if len(mine) != len(theirs):
        return False
    wrong = [at for at, (left, right) in enumerate(zip(mine, theirs, strict=True)) if left != right]
    if len(wrong) != 2 or wrong[1] - wrong[0] != 1:
        return False
    first, second = wrong
    return mine[first] == theirs[second] and mine[second] == theirs[first]
