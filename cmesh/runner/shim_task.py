"""One task's shim: claims it, watches its agent, ends its tree, writes the result.

Standard library only. At most one agent is started, and only by the winner of the claim.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time

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
from cmesh.runner.shim_processes import (
    Process,
    kill_children,
    process_of,
    signal_group,
    signal_process,
    task_processes,
)
from cmesh.runner.shim_signals import listen_for_signals
from cmesh.runner.shim_spool import CHUNK_BYTES, Spool
from cmesh.runner.shim_steps import COMPARED, compare, make_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Shim"]

NO_SANDBOX = "none"
KILL_PAUSE_S = 0.005
KILL_LIMIT_S = 10.0
STUBBORN_PAUSE_S = 0.25


class Shim:
    """The life of one claimed task, from the claim to the result."""

    files: TaskFiles  # from `wait` on

    def __init__(self, boot_id: str) -> None:
        self.directory = self.task_id = ""
        self.launch: dict[str, Any] = {}
        self.held: object = None  # keeps the task's port until this process ends
        self.namespace: Namespace | None = None
        self.note = ""
        self.enforcement = NO_SANDBOX
        self.agent: Process = (0, 0)
        self.status: int | None = None
        self.childless = True
        self.verdict = "exited"
        self.end_reason = ""
        self.error = ""
        self.ending = False
        self.heard = False
        self.killed: set[int] = set()
        self.leftovers = 0
        self.spools = [Spool(), Spool()]
        self.mute: list[Spool] = []
        self.kill_at = self.deadline = float("inf")
        self.grace_s = 0.0
        self.idle_s = self.silent_at = float("inf")
        self.disk: DiskWatch | None = None
        self.started_at = self.begun = 0.0
        self.session = -1
        self.after: dict[str, Any] | None = None
        self.compared = ""
        self.boot_id = boot_id
        self.start_time = process_of(os.getpid())[1]
        self.signals, self.poll = listen_for_signals()

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
        if self.after and self.agent[0] and self.verdict != "cancelled":
            left = self._compare(left)
        # Before the result: the next turn may begin as soon as that is seen.
        if self.session >= 0 and not left:
            os.close(self.session)
        self._write_result(left)

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
        now = time.monotonic()
        self.deadline = now + launch["runtime_s"]
        self.idle_s = launch.get("idle_s") or float("inf")
        self.silent_at = now + self.idle_s
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
            self.files.record_agent(record)
        except OSError as error:
            self.spools[0].error = error_text(error)  # a full disk must not end a running agent
        self.files.tell()

    def _watch(self) -> None:
        while self.agent[0] and self.status is None:
            now = time.monotonic()
            if now >= min(self.deadline, self.silent_at) and self.verdict == "exited":
                self._run_out(now)
                continue
            if now >= self.kill_at:
                return
            limit = min(self.deadline, self.silent_at, self.kill_at, self._look_at_disk(now))
            self._step(limit - now)

    def _run_out(self, now: float) -> None:
        """End an agent whose time is over, or that has been silent for too long."""
        # First: it may have ended, or said something, while this process stood still.
        self._reap()
        late = now >= self.deadline
        if self.status is not None or (not late and self._pump(self.spools[0])):
            return
        if not late:
            self.error = f"it printed nothing for {self.idle_s:g} s"
        self._stop("timed_out" if late else "idle_limit")

    def _look_at_disk(self, now: float) -> float:
        """Look at what the task holds of the disk; return when to look again."""
        if self.disk is None or self.verdict != "exited":
            return float("inf")
        if now < self.disk.next_at:
            return self.disk.next_at
        why = self.disk.look(now, lambda: [pid for pid, _start in self._alive()])
        if not why:
            return self.disk.next_at
        self._reap()  # as for the deadline
        if self.status is None:
            self.error = why
            self._stop("disk_limit")
            self.kill_at = now  # while it has time to end, it goes on writing
        return now

    def _step(self, wait_s: float) -> None:
        """Handle what is ready, waiting at most so long; a deadline that is not set waits on."""
        limit_ms = None if wait_s == float("inf") else max(0, int(wait_s * 1000) + 1)
        for fd, _ready in self.poll.poll(limit_ms):
            if self.namespace and fd == self.namespace.report:
                self._reap()
            elif fd == self.signals:
                noticed = os.read(fd, CHUNK_BYTES)
                # Reaped first: an agent that ended before the wish was seen has finished.
                self._reap()
                if signal.SIGTERM in noticed:
                    self._see_end()
            else:
                self._pump(next(spool for spool in self.spools if spool.source == fd))

    def _pump(self, spool: Spool) -> bool:
        """Move a chunk; return whether the agent said something."""
        before, size = spool.kept, spool.pump()
        if size == 0 and spool not in self.mute:
            self.mute.append(spool)
            self.poll.unregister(spool.source)
        if spool.kept > before:
            self.files.tell()
        if size > 0 and spool is self.spools[0] and self.verdict == "exited":
            self.silent_at = time.monotonic() + self.idle_s
        return size > 0

    def _see_end(self) -> None:
        wish = self.files.end_wish()
        # A SIGTERM that is not the worker's says nothing.
        if self.status is not None or self.verdict != "exited":
            return
        if wish is not None:
            self.end_reason = wish
            self._stop("cancelled")
        elif spent := self.files.spent():
            self.error = spent
            self._stop("budget_spent")

    def _stop(self, verdict: str) -> None:
        self.verdict = verdict
        self.deadline = self.silent_at = float("inf")
        self.kill_at = time.monotonic() + self.grace_s
        # The agent is not reaped yet, so the number of its group cannot be another's.
        if self.agent[0] and process_of(self.agent[0]) == self.agent:
            signal_group(self.agent[0], signal.SIGTERM)

    def _hear(self) -> None:
        """Take the agent's exit status from its namespace, when it is there."""
        if self.namespace is None or self.heard or not self.agent[0] or self.namespace.silent():
            return
        self.heard = True
        self.poll.unregister(self.namespace.report)
        self.status = self.namespace.exit_status()

    def _reap(self) -> None:
        self._hear()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # The kernel's word to a subreaper: no descendant is left, orphans included.
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            self.killed.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if self.namespace and pid == self.namespace.first[0]:
                self._namespace_ended()
            elif pid == self.agent[0]:
                self.status = code
            elif self.ending and code == -signal.SIGKILL:
                self.leftovers += 1

    def _namespace_ended(self) -> None:
        self._hear()
        if self.agent[0] and self.status is None:
            self.status = -signal.SIGKILL  # of the kernel, as for all that was inside
            if not self.ending:
                self.error = "the first process of its PID namespace was killed"

    def _end_tree(self) -> int:
        """Kill what is left and return how many live; a cancel goes on until none does.

        Only direct children are killed by number: no other process reaps them, so a number
        cannot have become another's. What they leave becomes a child of this subreaper; a
        namespace's first process is one, and is reaped once nothing is left inside.
        """
        self.ending = True
        if self.verdict == "exited" and self._is_empty():
            return 0  # what is left of the namespace goes with this process
        self.leftovers = len(self._alive() - {self.agent}) if self.namespace else 0
        limit = time.monotonic() + KILL_LIMIT_S
        while True:
            self._reap()
            late = time.monotonic() >= limit
            if not self.childless:
                busy = kill_children(self.killed)
            elif self.verdict in {"exited", "spawn_failed"}:
                return 0  # a finished task needs no search: this saves it milliseconds
            else:
                strays = task_processes(self.task_id, 0)
                if not strays:
                    return 0
                sent = [signal_process(stray, signal.SIGKILL) for stray in strays]
                busy = any(sent)
            if late and self.verdict != "cancelled":
                return max(1, len(self._alive()))
            # Something that forks and exits all the time is only caught without a pause.
            self._step(0 if busy else STUBBORN_PAUSE_S if late else KILL_PAUSE_S)

    def _is_empty(self) -> bool:
        ended = self.namespace is not None and self.agent[0] and self.status is not None
        return bool(ended and self.namespace and self.namespace.is_empty(self.agent[0]))

    def _alive(self) -> set[Process]:
        first = self.namespace.first if self.namespace else (0, 0)
        return task_processes(self.task_id, os.getpid(), first)

    def _drain(self) -> None:
        for spool in self.spools:
            while spool.pump() > 0:
                pass

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
