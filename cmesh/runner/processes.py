"""Which processes are a task's, and whether the owner of a claim lives. Linux: /proc and pidfds.

The worker's view of what `cmesh.runner.shim` does inside a task. Never acts on a bare pid.
"""

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from cmesh.runner import shim_processes
from cmesh.runner.launch import Containment
from cmesh.runner.shim import BOOT_ID_FILE
from cmesh.runner.shim_processes import Process, is_zombie, stat_of

__all__ = [
    "Owner",
    "boot_id",
    "is_alive",
    "own_record",
    "read_owner",
    "read_small",
    "task_processes",
]


@parsed(frozen=True, slots=True, kw_only=True)
class Owner:
    """The content of a claim: one process of one boot (proc_pid_stat(5), field 22).

    Attributes:
        containment: of a shim's task; empty in the claim of an older version.
        containment_note: why it is not the better one.
        enforcement: the sandbox it is started in, `none` = in none; as `containment`.
        first: the first process of the task's PID namespace.
    """

    who: Literal["shim", "worker"] = "shim"
    boot_id: str
    pid: int
    start_time: int
    containment: Containment | Literal[""] = ""
    containment_note: str = ""
    enforcement: str = ""
    first: tuple[int, int] = (0, 0)

    @property
    def process(self) -> Process:
        """Return what `signal_process` takes."""
        return (self.pid, self.start_time)


# A claim whose content a loss of power took: somebody's, and nobody alive.
UNREADABLE = Owner(boot_id="", pid=0, start_time=0)
_OWNER: TypeAdapter[Owner] = TypeAdapter(Owner)
_SMALL_BYTES = 64 * 1024


@cache
def boot_id() -> str:
    """Return this boot's id (random(4)); pids and start times mean nothing across boots."""
    return Path(BOOT_ID_FILE).read_text(encoding="ascii").strip()


def own_record() -> Owner:
    """Return this process as the owner of a claim that no shim may take any more."""
    stat = stat_of(os.getpid())
    assert stat is not None, "a process can read its own stat"
    return Owner(who="worker", boot_id=boot_id(), pid=os.getpid(), start_time=stat[2])


def read_owner(path: str) -> Owner | None:
    """Read a claim or an agent record; None when there is none.

    One that cannot be read counts as a dead shim's: an agent may have started.
    """
    try:
        return _OWNER.validate_json(read_small(path))
    except FileNotFoundError:
        return None
    except ValidationError:
        return UNREADABLE


def is_alive(owner: Owner) -> bool:
    """Return whether exactly this process lives (a zombie does not)."""
    if owner.boot_id != boot_id():
        return False
    stat = stat_of(owner.pid)
    return stat is not None and stat[2] == owner.start_time and not is_zombie(stat[0])


def read_small(path: str) -> bytes:
    """Return a file's first 64 KiB; a look reads many small files, so in three system calls.

    Raises:
        FileNotFoundError: there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SMALL_BYTES)
    finally:
        os.close(fd)


def task_processes(task_id: str, claim: Owner | None, *, owner_alive: bool) -> set[Process]:
    """Return the task's live processes: the marked ones, and all below its shim or namespace.

    INVARIANT: `owner_alive` is the look's. A shim that is being killed has given its lock back
    and has still a number: then the first process of its namespace counts already.
    """
    if claim is None or claim.who != "shim":
        return shim_processes.task_processes(task_id, 0)
    root = claim.pid if owner_alive else 0
    # Numbers of another boot are other processes' here.
    first = claim.first if claim.boot_id == boot_id() else (0, 0)
    return shim_processes.task_processes(task_id, root, first)
