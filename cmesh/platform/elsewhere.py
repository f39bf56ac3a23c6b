r"""Paths of another machine, whose system nobody has told: a text shows by its form whose it is.

No text is an absolute path of two systems: one begins with a slash, the other with a drive. What
is said by this rests on names alone, so it may advise, and never grant or deny.
"""

from cmesh.platform.posix import names as posix
from cmesh.platform.windows import names as windows

__all__ = ["is_absolute", "may_be_below"]

_SYSTEMS = (posix, windows)


def is_absolute(text: str) -> bool:
    """Say whether the text is an absolute path on some system."""
    return any(system.is_absolute(text) for system in _SYSTEMS)


def may_be_below(path: str, root: str) -> bool:
    """Say whether `path` may be `root` or below it, by the rules of the system that has both."""
    for system in _SYSTEMS:
        one, other = system.normal(path), system.normal(root)
        if one is not None and other is not None:
            return system.may_be_below(one, other)
    return False
