"""What a mistyped name may have meant, as the words of a hint. Pure."""

import difflib
from collections.abc import Sequence

__all__ = ["did_you_mean"]


def did_you_mean(
    name: str, candidates: Sequence[str], *, most: int = 3, cutoff: float = 0.5
) -> str:
    """Return the question that names the nearest candidates; empty when none is near.

    `cutoff` is that of `difflib.get_close_matches`.
    """
    near = difflib.get_close_matches(name, candidates, n=most, cutoff=cutoff)
    return f"did you mean `{'` or `'.join(near)}`?" if near else ""
