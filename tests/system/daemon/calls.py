"""Calls to daemons of another user, made by processes of that user: `tests.system.daemon.hands`.

A process is used again for the next call, whichever machine that is for: to start one takes
longer than the call, and tests make thousands.
"""

import atexit
import json
import os
import pwd
import select
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["call_as"]

ROOT = Path(__file__).parents[3]

_idle: dict[int, list["subprocess.Popen[bytes]"]] = {}


def call_as(
    user: pwd.struct_passwd, python: str, call: tuple[Path, str, object], limit_s: float
) -> dict[str, Any]:
    """Call an operation as `user` and return the answer as `hands` writes it. Blocks; any thread.

    Args:
        call: state directory, operation and arguments.

    Raises:
        TimeoutExpired: no answer in `limit_s`.
        CalledProcessError: the process ended instead; it has said why on standard error.
    """
    idle = _idle.setdefault(user.pw_uid, [])
    try:
        process = idle.pop()
    except IndexError:
        process = _start(user, python)
    try:
        answer = _ask(process, call, limit_s)
    except BaseException:
        process.kill()
        _close(process)
        raise
    idle.append(process)
    return answer


def _start(user: pwd.struct_passwd, python: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [python, "-m", "tests.system.daemon.hands"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
    )


def _ask(
    process: "subprocess.Popen[bytes]", call: tuple[Path, str, object], limit_s: float
) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    state, operation, arguments = call
    process.stdin.write(json.dumps([0, str(state), operation, arguments]).encode() + b"\n")
    process.stdin.flush()
    if not select.select([process.stdout], [], [], limit_s)[0]:
        raise subprocess.TimeoutExpired(process.args, limit_s)
    line = process.stdout.readline()
    if not line:
        raise subprocess.CalledProcessError(process.wait(limit_s), process.args)
    return json.loads(line)[1]


def _close(process: "subprocess.Popen[bytes]") -> None:
    with process:
        pass


@atexit.register
def _close_all() -> None:
    while _idle:
        for process in _idle.popitem()[1]:
            _close(process)
