"""Runs in a CPython for Windows, for test_jobs.py: keeps a job, as the shim of a task would.

    keeper.py FUNCTION [ARGUMENT]

Prints what it saw as one line of JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmesh.platform.processes import wait_ended
from cmesh.platform.windows.jobs import Child, Job, JobLimits

assert sys.platform == "win32"

LIMIT_S = 30.0
GRACE_S = 0.5
NO_LIMITS = JobLimits()  # Wine holds nobody to one
PROGRAMS = str(Path(__file__).with_name("programs.py"))


@contextmanager
def program(
    job: Job, *words: str, directory: str = "", more: Mapping[str, str] = MappingProxyType({})
) -> Generator[tuple[Child, int]]:
    """Start one of the programs; yield it, and a descriptor of what it says."""
    said, say = os.pipe()
    null = os.open("NUL", os.O_RDWR)
    try:
        child = job.start(
            [sys.executable, PROGRAMS, *words],
            directory=directory or str(Path.cwd()),
            environment=dict(os.environ) | {name.upper(): more[name] for name in more},
            files=(null, say, null),
        )
    finally:
        os.close(say)
        os.close(null)
    try:
        yield child, said
    finally:
        os.close(said)
        child.close()


def heard(said: int) -> Any:
    """Return the next line of a program; it ends with the pipe, when the job has ended."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(said, 65536)
        assert more, "the program has ended and said nothing"
        line += more
    return json.loads(line)


def cancel() -> dict[str, object]:
    """End a tree of programs that ignore every wish; say what was there and what is left."""
    with Job(NO_LIMITS) as job, program(job, "tree", "3") as (child, said):
        pids = [child.pid, *heard(said)]
        before = job.count()
        ended = job.end(child, GRACE_S, LIMIT_S)
        return {
            "before": before,
            "ended": ended,
            "left": job.count(),
            "status": child.wait(LIMIT_S),
            "gone": [wait_ended(pid, LIMIT_S) for pid in pids],
        }


def keep() -> None:
    """Keep a tree until this process is ended."""
    with Job(NO_LIMITS) as job, program(job, "tree", "2") as (child, said):
        print(json.dumps([child.pid, *heard(said)]), flush=True)
        sys.stdin.read()


def die() -> dict[str, object]:
    """End a keeper at once, and say whether what it kept has ended."""
    keeper = subprocess.Popen(
        [sys.executable, __file__, "keep"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert keeper.stdout is not None
    pids: list[int] = json.loads(keeper.stdout.readline())
    lived = [wait_ended(pid, 0) for pid in pids]
    keeper.kill()
    keeper.wait(LIMIT_S)
    return {"lived": lived, "ended": [wait_ended(pid, LIMIT_S) for pid in pids]}


def away() -> dict[str, object]:
    """Say whether a program that wants to leave the job has left it."""
    with Job(NO_LIMITS) as job, program(job, "away") as (_child, said):
        pid = heard(said)
        count = job.count()
        job.kill()
        ended = wait_ended(pid, LIMIT_S) if pid else True
        return {"outside": bool(pid) and count < 2, "ended": ended}


def told(file: str) -> object:
    """Start a program with the arguments in a file, and say what it was told."""
    asked = json.loads(Path(file).read_text("utf-8"))
    Path(asked["directory"]).mkdir(parents=True)
    with Job(NO_LIMITS) as job:
        place, more = asked["directory"], asked["environment"]
        with program(job, "told", *asked["argv"], directory=place, more=more) as (_child, said):
            return heard(said)


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        keep()
    else:
        functions = {"cancel": cancel, "die": die, "away": away, "told": told}
        print(json.dumps(functions[sys.argv[1]](*sys.argv[2:])))
