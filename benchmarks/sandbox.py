"""The start of `true` in the sandbox of a query, beside a bare interpreter: both, in turns.

From the spawn to the end of `true`, without a supervisor: what is left is what holding costs.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from benchmarks.calibration import timed
from benchmarks.table import Row, timing
from cmesh.model import Profile
from cmesh.runner.confine import limits_of
from cmesh.sandbox import start
from cmesh.sandbox.plan import plan
from cmesh.sandbox.probe import find_enforcement
from cmesh.sandbox.profile import SandboxSpec

__all__ = ["measure"]

WARM_UP = 5
GOAL_MS = 25.0


def measure(base: Path, count: int) -> list[Row]:
    """Start `true` again and again, each way in turn; blocks."""
    found = find_enforcement()
    if not found.tier:
        return [Row(name="`true` in a sandbox", note=f"no sandbox here: {found.why}")]
    launch = _launch(plan(_spec(base / "sandboxed"), found))
    bare = [sys.executable, "-I", "-S", "-c", "pass"]
    seconds: list[float] = []
    beside: list[float] = []
    for turn in range(WARM_UP + count):
        held = timed(lambda: _run(launch))
        alone = timed(lambda: subprocess.run(bare, check=True, env={}))
        if turn >= WARM_UP:
            seconds.append(held)
            beside.append(alone)
    row = timing(f"`true` in the sandbox of a query, tier {found.tier}", seconds)
    p95 = row.figures["p95"]
    return [
        replace(row, goal=f"p95 <= {GOAL_MS:.0f} ms", met=p95 <= GOAL_MS, note=found.label),
        timing("in turn with it, `python -I -S -c pass`", beside),
        Row(
            name="the sandbox over the bare interpreter, p95",
            unit="times",
            figures={"value": p95 / timing("", beside).figures["p95"]},
        ),
    ]


def _run(launch: dict[str, object]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = start.start(launch, null, null, null)
    finally:
        os.close(null)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0


def _spec(base: Path) -> SandboxSpec:
    places = [base / name for name in ("directory", "home", "tmp")]
    for place in places:
        place.mkdir(parents=True)
    directory, home, tmp = (os.path.realpath(place) for place in places)
    limits = limits_of(Profile.QUERY)
    return SandboxSpec(
        directory=directory, writes_directory=False, home=home, tmp=tmp, limits=limits
    )


def _launch(record: Mapping[str, object]) -> dict[str, object]:
    cwd = cast("str", record["directory"])
    return {"argv": ["/bin/true"], "cwd": cwd, "env": {"PATH": os.defpath}, "sandbox": record}
