"""What the worker finds about a task on disk: a look at it, and how its agent ended.

Values only; `cmesh.runner.supervise` makes them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from cmesh.runner.launch import Containment
from cmesh.runner.processes import read_small

__all__ = ["Checked", "Exit", "Look", "Turn", "read_exit", "read_turn"]


@parsed(frozen=True, slots=True, kw_only=True)
class Checked:
    """How the acceptance command's run ended, as the shim wrote it.

    Attributes:
        end: as `Exit.verdict`; `not_run` = it was not started, for the `reason`.
        exit_code: negative = ended by that signal; None = it never ran, or is unkillable.
        output_bytes: what it wrote; the last `output_kept` of them are in a file.
        output_lost: why they are not; empty = they are.
    """

    end: Literal["exited", "cancelled", "timed_out", "disk_limit", "spawn_failed", "not_run"]
    exit_code: int | None = None
    reason: str = ""
    runtime_s: float = 0.0
    output_bytes: int = 0
    output_kept: int = 0
    output_lost: str = ""


@parsed(frozen=True, slots=True, kw_only=True)
class Turn:
    """The end of a first turn after which the agent may have to set its answer right.

    Attributes:
        exit_code: always of one that ended by itself.
        stdout_kept: the spool's length at that time, as `stderr_kept`: the next turn goes on there.
        again: `ran` once the next turn ran; else why it did not; empty = nobody knows yet.
    """

    exit_code: int | None = 0
    stdout_kept: int
    stderr_kept: int
    again: str = ""


@parsed(frozen=True, slots=True, kw_only=True)
class Exit:
    """The shim's one result, as it wrote it.

    Attributes:
        verdict: `exited` by itself; ended because `cancelled` or `timed_out`, or for what it took
            of the disk or of a limit (`disk_limit`, `budget_spent`; how much in `error`) or for its
            silence (`idle_limit`, how long in `error`); `spawn_failed`, with the system's words in
            `error`; `damaged`: the result cannot be read.
        exit_code: of the agent; negative = ended by that signal; None = never ran, or unkillable.
        end_reason: why the worker asked for the end, for `cancelled`.
        processes_left: live processes counted at the end; always 0 for `cancelled`.
        leftovers_ended: processes besides the agent that had to be killed.
        started_at: seconds since the epoch, for people; 0 = not known, as `ended_at`.
        runtime_s: by the clock that never goes back.
        stdout_bytes: what the agent wrote in all; `stdout_kept` of them are in the spool.
        spool_error: why output was dropped below the limit; empty = it was not.
        containment: what held its processes; empty in the result of an older version.
        containment_note: why it was not the better one.
        enforcement: the sandbox that held it, `none` = none; empty as `containment`.
        compared: `yes`: its copy was compared with what it was made of; otherwise why not;
            empty = it has none.
        acceptance: of the acceptance command; None = there was none.
        turn: the first turn's end, where a repair turn was possible; None = it was not.
    """

    verdict: Literal[
        "exited",
        "cancelled",
        "timed_out",
        "disk_limit",
        "idle_limit",
        "budget_spent",
        "spawn_failed",
        "damaged",
    ]
    exit_code: int | None = None
    error: str = ""
    end_reason: str = ""
    processes_left: int = 0
    leftovers_ended: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    runtime_s: float = 0.0
    stdout_bytes: int = 0
    stdout_kept: int = 0
    stdout_sha256: str = ""
    stderr_bytes: int = 0
    stderr_kept: int = 0
    stderr_sha256: str = ""
    spool_error: str = ""
    containment: Containment | Literal[""] = ""
    containment_note: str = ""
    enforcement: str = ""
    compared: str = ""
    acceptance: Checked | None = None
    turn: Turn | None = None

    @property
    def started(self) -> datetime | None:
        """Return the start in UTC; None = the result does not say."""
        return _moment(self.started_at)

    @property
    def ended(self) -> datetime | None:
        """Return the end in UTC; None = the result does not say."""
        return _moment(self.ended_at)

    @property
    def witness(self) -> str:
        """Return what the end rests on, in words for people."""
        if self.verdict == "spawn_failed":
            return f"shim could not start the agent: {self.error}"
        if self.verdict == "damaged":
            return "the shim's result cannot be read"
        if self.verdict == "exited":
            return f"shim recorded {self._code()}"
        why = "deadline passed" if self.verdict == "timed_out" else "end asked for"
        why = self.error if self.verdict in {"disk_limit", "idle_limit", "budget_spent"} else why
        counted = f"{why}, shim recorded {self._code()} and counted {self.processes_left} processes"
        return counted + _COUNTED.get(self.containment, "")

    def _code(self) -> str:
        if self.exit_code is None:
            return "no exit"
        if self.exit_code < 0:
            return f"signal {-self.exit_code}"
        return f"exit {self.exit_code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a task's disk and processes; never older than the call that made it.

    Attributes:
        claim: nobody's, a shim's, or `burnt` by the worker itself.
        owner_alive: the claim's shim lives; looked at before `exit`.
        child_alive: a shim of this life, handed the task, may still claim it.
        agent_pid: as the shim recorded it, after the start; None = not recorded.
        spool_bytes: kept standard output so far.
        exit: the shim's result; None = there is none.
        containment: what holds its processes, as the claim says; empty = not known.
        containment_note: why it is not the better one.
        enforcement: the sandbox it is started in, `none` = none, as the claim says.
    """

    claim: Literal["none", "shim", "burnt"]
    owner_alive: bool
    child_alive: bool
    agent_pid: int | None
    spool_bytes: int
    exit: Exit | None
    containment: Containment | Literal[""] = ""
    containment_note: str = ""
    enforcement: str = ""

    @property
    def result(self) -> bool:
        """Return whether the shim wrote its result."""
        return self.exit is not None


_COUNTED = {
    "pid_namespace": " in its PID namespace",
    "best_effort": " by descent and marker (best effort)",
}
_EXIT: TypeAdapter[Exit] = TypeAdapter(Exit)
_TURN: TypeAdapter[Turn] = TypeAdapter(Turn)


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def read_exit(path: str) -> Exit | None:
    """Read a shim's result; None when there is none, `damaged` when it makes no sense."""
    try:
        return _EXIT.validate_json(read_small(path))
    except FileNotFoundError:
        return None
    except ValidationError:
        return Exit(verdict="damaged")


def read_turn(path: str) -> Turn | None:
    """Read what a shim says of a first turn's end; None when there is nothing that makes sense."""
    try:
        return _TURN.validate_json(read_small(path))
    except (FileNotFoundError, ValidationError):
        return None
