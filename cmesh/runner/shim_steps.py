"""What a shim runs besides its agent: one program of cmesh's own, in a sandbox, to its end.

Standard library only. Before the agent it makes a copy, after it a patch; what such a program
says stands in a file of the task's directory, which no agent can write.
"""

import os
import select
import signal
import time

from cmesh.runner.shim_files import read_file
from cmesh.runner.shim_launch import error_text
from cmesh.runner.shim_processes import children_of, signal_group
from cmesh.sandbox import start as sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["COMPARED", "compare", "make_copy"]

COMPARED = "yes"
"""What a result says of a copy that was compared; otherwise why it was not, if there is one."""

ENDED = "it was ended"
GONE_LIMIT_S = 5.0
GONE_PAUSE_S = 0.005
ERROR_CHARACTERS = 500
_NOTICED_BYTES = 4096


def make_copy(
    before: "dict[str, Any]", directory: str, signals: int, wish: "Callable[[], bool]"
) -> bool:
    """Let a task's copy be made; False when `wish` says meanwhile that the task is to end.

    Raises:
        OSError, ValueError: it was not made; says why.
    """
    why = _run_step(before, f"{directory}/before", signals, wish)
    if why and not wish():
        raise ValueError(f"no copy of its directory could be made: {why}")
    return not why


def compare(
    after: "dict[str, Any]", directory: str, signals: int, left: int, wish: "Callable[[], bool]"
) -> str:
    """Let the copy be compared with what it was made of; return `COMPARED`, or why it was not.

    It ends as soon as `wish` says that the task is to end.

    INVARIANT: nothing of the agent lives. What it leaves behind is read once, in a sandbox.
    """
    if left:
        return f"{left} processes of the task could not be ended"
    try:
        return _run_step(after, f"{directory}/after", signals, wish) or COMPARED
    except (OSError, ValueError) as error:
        return error_text(error)


def _run_step(
    record: "dict[str, Any]", answer: str, signals: int, wish: "Callable[[], bool]"
) -> str:
    """Run a launch record, its output into the file `answer`; return why it failed, empty = not.

    Args:
        record: with `limit_s`, after which it is ended.
        answer: path of the file; what it says on standard error goes beside it.
        signals: descriptor that tells signals by number; what comes meanwhile is taken off it.
        wish: asked at first and when one came; True ends it.

    Raises:
        OSError, ValueError: it could not be started, and nothing of it is left.
    """
    errors = f"{answer}.err"
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in (answer, errors)
    )
    others = set(children_of(os.getpid()))
    try:
        pid = sandbox.start(record, null, out, err)
    finally:
        for fd in (null, out, err):
            os.close(fd)
    handle = os.pidfd_open(pid)
    try:
        trouble = _watch(handle, signals, record["limit_s"], wish)
    finally:
        os.close(handle)
    if trouble:
        # All of it is in its session's group, and in namespaces that end with its first process.
        signal_group(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    if trouble:
        _see_off(others)
    if trouble or not status:
        return trouble
    said = read_file(errors).decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
    return said[-1][:ERROR_CHARACTERS]


def _see_off(others: "set[int]") -> None:
    """Wait until nothing of an ended step lives: the kernel takes a namespace apart by itself.

    Each process of it becomes a child of this subreaper when its parent has died.
    """
    limit = time.monotonic() + GONE_LIMIT_S
    while (left := set(children_of(os.getpid())) - others) and time.monotonic() < limit:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                continue  # reaped, or another user's by now
        time.sleep(GONE_PAUSE_S)


def _watch(handle: int, signals: int, limit_s: float, wish: "Callable[[], bool]") -> str:
    """Wait for a process's end; return why it must be ended first, empty = it has."""
    end = time.monotonic() + limit_s
    if wish():  # its signal may have come, and been taken, before this began
        return ENDED
    poll = select.poll()
    for fd in (handle, signals):
        poll.register(fd, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        ready = [fd for fd, _event in poll.poll(int(left * 1000) + 1)]
        if handle in ready:
            return ""
        if signals in ready:
            noticed = os.read(signals, _NOTICED_BYTES)
            if signal.SIGTERM in noticed and wish():
                return ENDED
    return f"it took more than {limit_s:g} seconds"
