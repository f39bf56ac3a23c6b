"""The program of copies, run on what is this machine's owner's, outside of a sandbox.

For a caller's side alone: git is asked for objects there, and reads no work tree.
"""

import json
import subprocess
from collections.abc import Mapping

from cmesh.errors import ChangesRefused
from cmesh.runner import tree
from cmesh.sandbox.plan import interpreter
from cmesh.text import one_line

__all__ = ["run_order"]


def run_order(order: Mapping[str, object], limit_s: float) -> bytes:
    """Let the program do what an order says; return its answer, as JSON. Blocks.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit_s`.
        ChangesRefused: it could not; says why in its words.
    """
    argv = [interpreter().program, "-I", "-S", tree.__file__, json.dumps(order)]
    done = subprocess.run(  # noqa: S603 - cmesh's own program
        argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, env={}, cwd="/",
        timeout=limit_s,
    )  # fmt: skip
    if done.returncode:
        said = one_line(done.stderr.decode("utf-8", "replace"), 300)
        raise ChangesRefused(f"nobody can tell what has changed: {said}")
    return done.stdout
