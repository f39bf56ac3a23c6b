"""The daemon's log, and what a daemon that does not start says there as its last word.

Quick to import.
"""

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import TextIO

from cmesh.errors import CmeshError, DaemonError, UnsafePermissions, by_code
from cmesh.paths import log_file

__all__ = [
    "failure",
    "failure_in",
    "keep_small",
    "open_log",
    "report_failure",
    "reported",
]

LOG_LIMIT_BYTES = 10 * 1024 * 1024
LOG_TAIL_BYTES = 64 * 1024

_FAILURE = "cmesh-failure "


def open_log(state: Path) -> int:
    """Open the daemon's log for appending, begun anew when it is large.

    Raises:
        UnsafePermissions: others can read it.
    """
    path = log_file(state)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o600)
    if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
        os.close(handle)
        raise UnsafePermissions(
            f"`{path}` lets other users in", hint=f"chmod 0600 {path}, or remove it"
        )
    return handle


def keep_small(state: Path) -> None:
    """Begin the log anew where it is large and this process writes to it; else do nothing.

    For a daemon whose output a service manager has opened: nobody else would ever begin it anew.
    """
    path = log_file(state)
    with contextlib.suppress(OSError):
        info, mine = path.lstat(), os.fstat(2)
        if (info.st_dev, info.st_ino) != (mine.st_dev, mine.st_ino):
            return
        if info.st_size > LOG_LIMIT_BYTES:
            handle = open_log(state)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.close(handle)


def reported(state: Path, begin: int) -> CmeshError | None:
    """Return the error that a daemon gave up with since byte `begin` of its log; None = none."""
    try:
        text = _log_text(state, begin)
    except OSError:
        return None
    return failure_in(text, 1, hint=f"see {log_file(state)}") if _FAILURE in text else None


def report_failure(error: CmeshError, stream: TextIO) -> None:
    """Write why the daemon does not start, as the line that its starter looks for."""
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    stream.write(f"{_FAILURE}{json.dumps(body)}\n")
    stream.flush()


def failure(returncode: int, state: Path, begin: int = 0) -> CmeshError:
    """Return what an ended daemon said last: its report, else its last error line.

    Reads its log from byte `begin` on.
    """
    return failure_in(_log_text(state, begin), returncode, hint=f"see {log_file(state)}")


def failure_in(text: str, returncode: int, *, hint: str = "") -> CmeshError:
    """Return what an ended process of ours said last, as `failure` does."""
    lines = [line for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(_FAILURE):
            body: dict[str, str] = json.loads(line.removeprefix(_FAILURE))
            return by_code(body["code"])(body["message"], hint=body["hint"] or hint)
    errors = [line for line in lines if _level(line) in {"error", "critical"}]
    last = (errors or lines or ["it wrote nothing"])[-1]
    return DaemonError(f"the daemon ended with status {returncode}: {last[:500]}", hint=hint)


def _level(line: str) -> str:
    """Return the level of a line of either form; empty = it is none."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(line)["level"])
    return "".join(line.split(" ", 2)[1:2])


def _log_text(state: Path, begin: int) -> str:
    with log_file(state).open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(begin, end - LOG_TAIL_BYTES))
        return log.read().decode("utf-8", "replace")
