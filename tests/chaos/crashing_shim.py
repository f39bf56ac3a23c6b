"""The shim for the chaos suite: the real one, dying once at the step the harness has armed.

Standard library only, as the shim; imported by the small program that
`tests.chaos.crashing` writes, with `cmesh/runner` and this directory as its only path.
"""

import functools
import json
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["DIED", "STEPS", "main"]

DIED = "died"
"""Has a line for each task whose shim died so."""

STEPS = {
    "_claim": "shim claim",
    "_start": "shim agent start",
    "_record_agent": "shim agent record",
    "_end_tree": "shim end of tree",
    "_write_result": "shim result",
}
"""Methods of the shim by the step of the start protocol they are."""


def main(place: str) -> int:
    """Be the shim; `place` is the harness's directory."""
    # Only the program that runs this has it on its path.
    shim: Any = import_module("shim")
    for method, name in STEPS.items():
        setattr(shim.Shim, method, _wrapped(getattr(shim.Shim, method), name, place))
    return int(shim.main())


def _wrapped(function: Callable[..., Any], name: str, place: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        _die_if_due(f"before {name}", place, arguments[0].task_id)
        answer = function(*arguments)
        _die_if_due(f"after {name}", place, arguments[0].task_id)
        return answer

    return wrapped


def _die_if_due(point: str, place: str, task_id: str) -> None:
    arm, dying = Path(place) / "arm", Path(place) / "dying"
    try:
        if json.loads(arm.read_text("utf-8"))["point"] != point:
            return
        # Only one of several shims gets it.
        arm.rename(dying)
        dying.write_text(task_id, "utf-8")
        # Kept apart: the harness may have given up on this point, or armed the next one.
        with arm.with_name(DIED).open("a", encoding="utf-8") as died:
            died.write(f"{task_id}\n")
        dying.rename(arm.with_name("reached"))
    except (OSError, ValueError):
        return
    os.kill(os.getpid(), signal.SIGKILL)
