"""The daemon as it is, but that it stops for good at a named point of a compaction, to be killed there.

Environment: `STOP_AT`, one of `POINTS`; `STOP_MARK`, a file that is made once it stands there.
"""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmesh.__main__ import main
from cmesh.store import compacting, process

POINTS = ("copying", "copied", "in place", "written down")
"""The copy is being made; is whole beside the old file; has its name; and a row says so."""


def stop() -> None:
    Path(os.environ["STOP_MARK"]).touch()
    threading.Event().wait()


def after(work: Callable[..., Any]) -> Callable[..., Any]:
    def stopping(*arguments: Any) -> Any:
        work(*arguments)
        stop()

    return stopping


def copying(argv: list[str], **options: Any) -> None:
    del options["timeout"], options["check"]
    with subprocess.Popen(argv, **options):
        stop()


async def settling(*_arguments: Any) -> None:
    stop()


class _Run:
    """What `compacting` uses of `subprocess`."""

    DEVNULL, PIPE, TimeoutExpired = subprocess.DEVNULL, subprocess.PIPE, subprocess.TimeoutExpired
    run = staticmethod(copying)


if __name__ == "__main__":
    patch = pytest.MonkeyPatch()  # it goes with the process
    match os.environ["STOP_AT"]:
        case "copying":
            patch.setattr(compacting, "subprocess", _Run)
        case "copied":
            patch.setattr(compacting, "copy_compact", after(compacting.copy_compact))
        case "in place":
            patch.setattr(process, "rewrite", after(compacting.rewrite))
        case "written down":
            patch.setattr(process.DatabaseProcess, "settle", settling)
        case other:
            raise SystemExit(f"there is no point `{other}`")
    raise SystemExit(main())
