"""What a shim starts for one task: the value between runners and supervision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cmesh.beneath import Judged
from cmesh.runner.sessions import Place

__all__ = ["Containment", "Disk", "Launch"]

Containment = Literal["pid_namespace", "best_effort"]
"""What ends a task's processes; `cmesh.runner.shim_launch` says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What a task may take of the disk; its shim looks, `cmesh.runner.shim_disk` says how often.

    Attributes:
        places: absolute paths of the directories that it may write.
        copy: one more, which it finds as its shim has made it; empty = none.
        most_bytes: that it may add to them.
        floor_bytes: of which half stays free on their disk, or who took it is ended; 0 = none.
    """

    places: tuple[str, ...]
    copy: str = ""
    most_bytes: int
    floor_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A program to start, complete: nothing is inherited and nothing is looked up.

    Attributes:
        argv: the program by its absolute path, then its arguments; no NUL.
        cwd: absolute directory it starts in.
        judged: what `cwd` must be, or nothing is started; None = whatever has that name.
        port: of the machine's loopback, kept from other users as long as the task runs, whoever
            serves it; 0 = none.
        starts_in: absolute path of an empty directory in the agent's home, which is entered after
            `cwd`; empty = it starts in `cwd`.
        files: written before it starts, by their absolute paths in the agent's home.
        before: another launch record with a `sandbox` and `limit_s`, which must succeed first.
        after: one that is run once nothing of the task lives.
        accept: the launch record of the acceptance command, with `disk` as here; run at the very end.
        again: arguments of a repair turn after it, the session's id perhaps as `SESSION_MARK`;
            empty = it has none.
        disk: what it may take of the disk; None = all there is.
        idle_s: seconds without a byte on its standard output after which it is ended; None = never.
        env: the whole environment; may hold a credential, so it is never logged.
        stdin: what it reads, to the end of file.
        runtime_s: seconds from its start to its forced end.
        output_bytes: bytes of standard output kept.
        containment: the most that is wanted; a machine may not have it, and the claim says so.
        session: the conversation it belongs to, and may write; None = it has none.
        session_link: absolute path in the agent's home that is to lead there.
        sandbox: how it is confined, as `cmesh.sandbox.plan` says; None = it is not.
    """

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    stdin: bytes
    runtime_s: int
    output_bytes: int
    containment: Containment = "pid_namespace"
    session: Place | None = None
    session_link: str = ""
    sandbox: Mapping[str, object] | None = None
    judged: Judged | None = None
    port: int = 0
    starts_in: str = ""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None
    accept: Mapping[str, object] | None = None
    again: tuple[str, ...] = ()
    disk: Disk | None = None
    idle_s: int | None = None
