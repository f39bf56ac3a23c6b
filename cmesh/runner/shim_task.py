"""One task's shim: claims it, watches its agent, ends its tree, writes the result.

Standard library only. At most one agent is started, and only by the winner of the claim.
"""

import ctypes
import json
import os
import select
import sys
import time

from cmesh.runner.shim_accept import ACCEPT_TAIL, Acceptance, not_run
from cmesh.runner.shim_disk import DiskWatch
from cmesh.runner.shim_files import TaskFiles, lock_session, write_quietly
from cmesh.runner.shim_launch import (
    BEST_EFFORT,
    PID_NAMESPACE,
    Namespace,
    error_text,
    hold_port,
    start_agent,
)
from cmesh.runner.shim_processes import Process, process_of
from cmesh.runner.shim_repair import Repair
from cmesh.runner.shim_run import Run
from cmesh.runner.shim_signals import listen_for_signals
from cmesh.runner.shim_spool import CHUNK_BYTES, Spool
from cmesh.runner.shim_steps import COMPARED, compare, make_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Shim"]

NO_SANDBOX = "none"


class Shim(Run):
    """The life of one claimed task, from the claim to the result; the run is its agent's."""

    def __init__(self, boot_id: str) -> None:
        super().__init__(*listen_for_signals(), [Spool(), Spool()])
        self.directory = ""
        self.launch: dict[str, Any] = {}
        self.held: object = None  # keeps the task's port until this process ends
        self.note = ""
        self.enforcement = NO_SANDBOX
        self.started_at = self.begun = self.ran_from = self.runtime_s = 0.0
        self.session = -1
        self.after: dict[str, Any] | None = None
        self.compared = ""
        self.accept: dict[str, Any] | None = None
        self.accepted: dict[str, object] = {}
        self.again: dict[str, Any] | None = None
        self.turn: dict[str, object] = {}
        self.boot_id = boot_id
        self.start_time = process_of(os.getpid())[1]

    def prepare(self, libc: ctypes.CDLL) -> None:
        """Make the namespace ahead of the task, and say on descriptor 1 whether there is one."""
        try:
            self.namespace = Namespace(libc, self.spools)
        except OSError as error:
            self.note = error_text(error)
        self.childless = self.namespace is None
        kind = PID_NAMESPACE if self.namespace else BEST_EFFORT
        write_quietly(1, json.dumps({"containment": kind, "note": self.note}).encode() + b"\n")

    def wait(self) -> bool:
        """Wait for a task directory; False when none will come."""
        record = os.read(0, CHUNK_BYTES)
        if not record:
            return False
        self.directory = json.loads(record)["directory"]
        self.task_id = self.directory.rpartition("/")[2]
        self.files = TaskFiles(self.directory)
        return True

    def begin(self) -> bool:
        """Claim the task and start its agent; False when the claim is another's.

        False as well when the disk has no room: nothing ran, the worker may try again. One that
        needs a copy first is started by `finish`: the next shim must not wait for that.
        """
        try:
            self.files.reserve_result()
            self._read_launch()
            if not self._claim():
                return False
        except FileNotFoundError:
            return False  # taken in and renamed away
        except OSError as error:
            sys.stderr.write(f"{self.task_id}: not claimed: {error_text(error)}\n")
            sys.stderr.flush()
            return False
        self.started_at, self.begun = time.time(), time.monotonic()
        if not self.launch.get("before"):
            self._begin_agent()
        return True

    def finish(self) -> None:
        """Watch the agent to its end, end what it left, compare its copy, write the result."""
        if self.launch:
            self._begin_agent()
        self._watch()
        left = self._end_tree()
        self._drain()
        if self.again and self.agent[0] and (self.verdict, self.status, left) == ("exited", 0, 0):
            left = self._repair(self.again)
        ran_s = time.monotonic() - self.ran_from
        if self.after and self.agent[0] and self.verdict != "cancelled":
            left = self._compare(left)
        if self.accept:
            left = self._accept(self.accept, ran_s, left)
        # Before the result: the next turn may begin as soon as that is seen.
        if self.session >= 0 and not left:
            os.close(self.session)
        self._write_result(left)

    def _repair(self, record: "dict[str, Any]") -> int:
        """Let the agent set its answer right, once; return how many processes live.

        INVARIANT: a first turn that went well stays so, unless the second one ran and did not.
        """
        self._leave_namespace()
        turn = Repair(self, record, self.directory, self.deadline, self._record_check)
        left = turn.run()
        self.turn, self.leftovers = turn.fields(), self.leftovers + turn.leftovers
        self.namespace = turn.namespace or self.namespace
        if turn.verdict != "spawn_failed":
            self.verdict, self.error, self.end_reason = turn.verdict, turn.error, turn.end_reason
        if turn.agent[0]:
            self.status = turn.status
        return left

    def _compare(self, left: int) -> int:
        """Let the copy be compared; return how many processes live. A cancel still counts."""
        assert self.after is not None
        self.compared = compare(self.after, self.directory, self.signals, left, self._wanted_gone)
        wish = self.files.end_wish()
        if self.verdict != "exited" or wish is None or self.compared == COMPARED:
            return left
        # INVARIANT: a task is not done before its patch is, and cancelled is what was counted.
        self.verdict, self.end_reason, self.compared = "cancelled", wish, ""
        return self._end_tree()

    def _accept(self, record: "dict[str, Any]", ran_s: float, left: int) -> int:
        """Run the acceptance command; return how many processes live. A cancel still counts.

        INVARIANT: after the comparison, so that the patch is the agent's work alone.
        """
        why = ""
        if self.verdict != "exited" or not self.agent[0]:
            why = "the agent did not end by itself"
        elif left:
            why = f"{left} processes of the task could not be ended"
        if why:
            self.accepted = not_run(why)
            return left
        self._leave_namespace()
        check = Acceptance(self, record, self.runtime_s - ran_s, self._record_check)
        left = check.run()
        self.accepted = check.fields(f"{self.directory}/{ACCEPT_TAIL}")
        if check.verdict == "cancelled":
            self.verdict, self.end_reason = "cancelled", check.end_reason
        return left

    def _record_check(self, first: Process) -> None:
        """Write, before anything runs there, in whose end the proof of zero lies from now on."""
        fields = {**self._claim_fields(), "first": first}
        try:
            self.files.record("check", fields)
        except OSError as error:
            self.spools[0].error = error_text(error)  # a full disk must not end a check

    def _leave_namespace(self) -> None:
        """Let the namespace of the agent go, in which nothing lives any more."""
        if self.namespace is None:
            return
        self.namespace.close()
        try:
            os.waitpid(self.namespace.first[0], 0)
        except ChildProcessError:
            return  # it was killed with what the agent had left, and reaped

    def _wanted_gone(self) -> bool:
        return self.files.end_wish() is not None

    def _begin_agent(self) -> None:
        self._see_end()
        if self.verdict == "exited":
            try:
                self._start()
            except (OSError, ValueError) as error:
                self.verdict, self.error = "spawn_failed", self.error or error_text(error)

    def _wants_end(self) -> bool:
        self._see_end()
        return self.verdict != "exited"

    def _claim(self) -> bool:
        return self.files.claim(self._claim_fields(), self.start_time)

    def _claim_fields(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "who": "shim",
            "boot_id": self.boot_id,
            "pid": os.getpid(),
            "start_time": self.start_time,
            "containment": PID_NAMESPACE if self.namespace else BEST_EFFORT,
            "containment_note": self.note,
            "enforcement": self.enforcement,
        }
        if self.namespace:  # on disk before the agent can start: its end is the proof of zero
            fields["first"] = self.namespace.first
        return fields

    def _read_launch(self) -> None:
        """Read what to start, and let the namespace go where it is not wanted, or not there."""
        try:
            self.launch = self.files.launch()
            if self.launch.get("sandbox"):
                self.enforcement = self.launch["sandbox"]["enforcement"]
        except OSError as error:
            self.error = error_text(error)
        except (ValueError, TypeError) as error:
            self.error = f"`launch.json` makes no sense: {error}"
        if self.namespace is None:
            return
        if self.launch.get("containment") == BEST_EFFORT:
            self.note = "asked for"
        elif not self.namespace.silent():
            self.note = "the namespace's first process ended before the task came"
        else:
            return
        self.namespace.close()
        self.namespace = None

    def _start(self) -> None:
        launch, self.launch = self.launch, {}
        if not launch:
            raise ValueError("no launch")
        self.grace_s = launch["grace_s"]
        self.session = lock_session(launch.get("lock", ""))
        # It may hold a key, and the copy takes its time.
        self.files.remove_launch()
        before, self.after = launch.pop("before", None), launch.pop("after", None)
        self.accept, self.runtime_s = launch.pop("accept", None), launch["runtime_s"]
        if launch.get("again"):
            self.again = launch
        if before and not make_copy(before, self.directory, self.signals, self._wants_end):
            return
        if disk := launch.get("disk"):
            self.disk = DiskWatch(disk)
        if port := launch.get("port"):
            self.held = hold_port(port)
        out, err = self.spools
        stdin = f"{self.directory}/stdin"
        try:
            out.open(f"{self.directory}/stdout", launch["output_bytes"])
            err.open(f"{self.directory}/stderr", launch["error_bytes"])
            if self.namespace:
                pid = self.namespace.start(launch, stdin)
                self.poll.register(self.namespace.report, select.POLLIN)
            else:
                pid = start_agent(launch, stdin, out.sink, err.sink)
        finally:
            os.chdir("/")
            os.umask(0o077)
            for spool in self.spools:
                spool.close_sink()
        self.ran_from = time.monotonic()
        self.deadline = self.ran_from + self.runtime_s
        self.idle_s = launch.get("idle_s") or float("inf")
        self.silent_at = self.ran_from + self.idle_s
        self.childless = False
        self.agent = process_of(pid)
        for spool in self.spools:
            self.poll.register(spool.source, select.POLLIN)
        self._record_agent()
        # The end of a quick agent may have come with the word of its start: no poll tells it.
        self._hear()

    def _record_agent(self) -> None:
        pid, start = self.agent
        record = {"pid": pid, "start_time": start, "boot_id": self.boot_id}
        try:
            self.files.record("agent", record)
        except OSError as error:
            self.spools[0].error = error_text(error)  # a full disk must not end a running agent
        self.files.tell()

    def _write_result(self, left: int) -> None:
        runtime_s = time.monotonic() - self.begun
        fields: dict[str, object] = {
            "verdict": self.verdict,
            "exit_code": self.status,
            "error": self.error,
            "containment": PID_NAMESPACE if self.namespace else BEST_EFFORT,
            "containment_note": self.note,
            "enforcement": self.enforcement if self.agent[0] else NO_SANDBOX,
            "compared": self.compared,
            "acceptance": self.accepted or None,
            "turn": self.turn or None,
            "end_reason": self.end_reason,
            "processes_left": left,
            "leftovers_ended": self.leftovers,
            "started_at": self.started_at,
            "ended_at": self.started_at + runtime_s,
            "runtime_s": runtime_s,
            "spool_error": "; ".join(s.error for s in self.spools if s.error),
        }
        for name, spool in zip(("stdout", "stderr"), self.spools, strict=False):
            fields[f"{name}_bytes"], fields[f"{name}_kept"] = spool.total, spool.kept
            fields[f"{name}_sha256"] = spool.digest.hexdigest()
        self.files.write_result(fields)
