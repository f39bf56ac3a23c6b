"""Runs in a CPython for Windows: the programs of a task that test_jobs.py starts in a job.

programs.py tree MANY     starts MANY programs that ignore every wish, says their numbers, waits
programs.py away          starts a program that is to leave the job, says its number
programs.py told WORD...  says its arguments, its directory and its environment
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

assert sys.platform == "win32"

LIFE_S = 90.0
LEAVE_THE_JOB = 0x01000000
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGBREAK, signal.SIG_IGN); print(1, flush=True);"
    f"time.sleep({LIFE_S})"
)


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def stubborn(flags: int = 0) -> int:
    """Start a program that no signal ends; return its number once it ignores them."""
    started = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, creationflags=flags
    )
    assert started.stdout is not None
    assert started.stdout.readline().strip() == b"1"
    return started.pid


def tree(many: str) -> None:
    signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    say([stubborn() for _ in range(int(many))])
    time.sleep(LIFE_S)


def away() -> None:
    try:
        say(stubborn(LEAVE_THE_JOB))
    except OSError:
        say(0)
    time.sleep(LIFE_S)


def told(*words: str) -> None:
    say({"argv": words, "directory": str(Path.cwd()), "environment": dict(os.environ)})


if __name__ == "__main__":
    {"tree": tree, "away": away, "told": told}[sys.argv[1]](*sys.argv[2:])
