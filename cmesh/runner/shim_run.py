"""One program under a shim, from its start to the count of what it left. Standard library only.

A shim runs its agent so and, after that, an acceptance command. It starts nothing by itself.
"""

import os
import select
import signal
import time

from cmesh.runner.shim_disk import DiskWatch
from cmesh.runner.shim_files import TaskFiles
from cmesh.runner.shim_launch import Namespace
from cmesh.runner.shim_processes import (
    Process,
    kill_children,
    process_of,
    signal_group,
    signal_process,
    task_processes,
)
from cmesh.runner.shim_spool import CHUNK_BYTES, Spool

__all__ = ["Run"]

KILL_PAUSE_S = 0.005
KILL_LIMIT_S = 10.0
STUBBORN_PAUSE_S = 0.25


class Run:
    """A program in a namespace, where there is one: watched, ended, counted.

    Attributes:
        agent: the program's process; (0, 0) = it has not started.
        status: how it exited, negative for a signal; None = it has not.
        verdict: `exited` as long as nothing else ended it.
        ending: what it left is being ended.
        heard: its exit was taken from the namespace.
        metered: the task's limits are its own: it ends when one is spent.
        mute: spools whose writers have all gone.
        silent_at: when it has been silent for too long.
        killed: numbers that were sent a kill and are not reaped yet.
    """

    files: TaskFiles  # from the task's beginning on

    def __init__(self, signals: int, poll: "select.poll", spools: "list[Spool]") -> None:
        self.task_id = ""
        self.namespace: Namespace | None = None
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
        self.spools = spools
        self.mute: list[Spool] = []
        self.kill_at = self.deadline = float("inf")
        self.grace_s = 0.0
        self.metered = True
        self.idle_s = self.silent_at = float("inf")
        self.disk: DiskWatch | None = None
        self.signals, self.poll = signals, poll

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
        elif self.metered and (spent := self.files.spent()):
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
