"""What makes and compares the copy of a task, on a git repository of many files, beside `git status`.

The two steps as a shim starts them, each in its sandbox, with one changed file between them. The
second one is the evidence: it finds each changed name and content, whatever the agent did, where
git's own status trusts the index that it wrote itself.
"""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from benchmarks.agents import make_repository
from benchmarks.calibration import timed
from benchmarks.table import Row, timing
from cmesh.beneath import Judged, identity, open_root
from cmesh.model import Profile
from cmesh.policy.profiles import BUILT_IN
from cmesh.runner.confine import Sandboxes, limits_of
from cmesh.runner.copies import read_changed
from cmesh.sandbox import start
from cmesh.sandbox.probe import find_enforcement

__all__ = ["measure"]

MANY, FEW = 100_000, 1_000
GOAL = 1.5
_QUIET = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.defpath}


def measure(base: Path, count: int) -> list[Row]:
    """Copy and compare again and again, `git status` in turn with it; blocks."""
    found = find_enforcement()
    if found.tier != 3:
        return [Row(name="evidence of a repository", note=f"no whole sandbox here: {found.why}")]
    rows: list[Row] = []
    for files, times in ((FEW, max(2, count // 5)), (MANY, max(1, count // 20))):
        place = base / f"tree-{files}"
        make_repository(place, files)
        sandboxes = Sandboxes([])
        sandboxes.found = found
        rows += _rows(sandboxes, place, files, times)
        shutil.rmtree(place)
    return rows


def _rows(sandboxes: Sandboxes, place: Path, files: int, times: int) -> list[Row]:
    taken: dict[str, list[float]] = {"status": [], "make": [], "compare": []}
    _status(place)  # the first one reads the disk
    for turn in range(times):
        made, compared_s = _both(sandboxes, place, place.with_name(f"task-{files}-{turn}"))
        taken["make"].append(made)
        taken["compare"].append(compared_s)
        taken["status"].append(timed(lambda: _status(place)))
    compared, status = timing("", taken["compare"]), timing("", taken["status"])
    ratio = {key: compared.figures[key] / status.figures[key] for key in ("min", "p50", "p95")}
    row = Row(name=f"evidence / `git status`, {files:,} files", unit="x", figures=ratio)
    if files == MANY:
        row = replace(row, goal=f"p50 <= {GOAL:g} x", met=ratio["p50"] <= GOAL)
    return [
        replace(status, name=f"`git status`, {files:,} files"),
        timing(f"copy of {files:,} files, before the agent", taken["make"]),
        replace(compared, name=f"evidence of {files:,} files, after the agent"),
        row,
    ]


def _both(sandboxes: Sandboxes, place: Path, task: Path) -> tuple[float, float]:
    """Return the seconds of the copy and of its comparison, with one file changed between."""
    copy = sandboxes.copy(task, str(place), _judge(place), BUILT_IN[Profile.EDIT])
    assert copy is not None
    copy.lay_out()
    before, after = copy.steps(copy.objects(), limits_of(Profile.EDIT))
    made = timed(lambda: _run(before, task / "before"))
    (task / "copy" / "d0" / "code-0").write_text("changed\n", "utf-8")
    compared = timed(lambda: _run(after, task / "after"))
    changed = read_changed(task)
    if changed is None or changed.changed != ["M d0/code-0"]:
        raise RuntimeError(f"not the evidence of one changed file: {changed}")
    shutil.rmtree(task)
    return made, compared


def _run(record: dict[str, Any], answer: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (
        os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) for path in (answer, f"{answer}.err")
    )
    try:
        pid = start.start(record, null, out, err)
    finally:
        for fd in (null, out, err):
            os.close(fd)
    _pid, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(Path(f"{answer}.err").read_text("utf-8"))


def _judge(place: Path) -> Judged:
    fd = open_root(str(place))
    try:
        return cast("Judged", (str(place), "", *identity(fd)))
    finally:
        os.close(fd)


def _status(place: Path) -> None:
    argv = ("git", "status", "--porcelain")
    subprocess.run(argv, cwd=place, env=_QUIET, check=True, capture_output=True)
