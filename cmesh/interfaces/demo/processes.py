"""Which processes the demo has caused, read from /proc; on systems without it, none.

Looks only. A process is a pid with its start time, so that a reused pid is another one.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Started", "alive", "descendants", "processes_with"]

Started = tuple[int, str]
"""A process: its pid, and its start time in clock ticks since boot (proc(5), field 22)."""

_PROC = Path("/proc")


def processes_with(path: Path) -> list[int]:
    """Return processes whose environment or arguments name `path`, but not this one's own."""
    marker = os.fsencode(path)
    found: list[int] = []
    for entry in _PROC.glob("[0-9]*"):
        if int(entry.name) in (os.getpid(), os.getppid()):
            continue
        with contextlib.suppress(OSError):
            if marker in entry.joinpath("environ").read_bytes() or (
                marker in entry.joinpath("cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found


def descendants(pids: Iterable[int]) -> set[Started]:
    """Return all children of these processes, and theirs; not the processes themselves."""
    parents: dict[int, list[Started]] = {}
    for entry in _PROC.glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields:
            parents.setdefault(int(fields[1]), []).append((int(entry.name), fields[19]))
    found: set[Started] = set()
    waiting = list(pids)
    while waiting:
        children = parents.get(waiting.pop(), [])
        waiting += [pid for pid, _ in children]
        found.update(children)
    return found


def alive(processes: Iterable[Started]) -> list[int]:
    """Return the pids of those that still run; one that only waits to be reaped does not."""
    found: list[int] = []
    for pid, start in processes:
        fields = _stat(pid)
        if fields and fields[19] == start and fields[0] != "Z":
            found.append(pid)
    return sorted(found)


def _stat(pid: int) -> list[str]:
    """Return the fields of a process behind its name, state first; empty = there is none."""
    with contextlib.suppress(OSError):
        # The name is in parentheses and may hold any character, so count from its end.
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
        return text.rpartition(")")[2].split()
    return []
