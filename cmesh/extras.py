"""How an extra of cmesh comes into the environment that cmesh runs in."""

import shlex
import sys
from importlib.util import find_spec

__all__ = ["how_to_add"]


def how_to_add(extra: str) -> str:
    """Return the command that adds an extra here, to be typed into a shell.

    It names this interpreter: the `pip` of a shell's PATH is most often that of another
    environment. One that uv made has no pip.
    """
    python, wanted = shlex.quote(sys.executable), shlex.quote(f"cmesh[{extra}]")
    if find_spec("pip") is None:
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m pip install {wanted}"
