"""A repair turn: the agent goes on once in its own session, after an answer that did not fit.

Standard library only. Whether there is one is the worker's word; that there is at most one lies
with the shim, which has the task's claim: it asks once, and nobody else can start the turn.
"""

import ctypes
import os
import select
import signal
import time

from cmesh.runner.shim_disk import DiskWatch
from cmesh.runner.shim_files import AGAIN_STDIN, TURN
from cmesh.runner.shim_launch import Namespace, error_text, start_agent
from cmesh.runner.shim_processes import process_of
from cmesh.runner.shim_run import Run
from cmesh.runner.shim_spool import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from cmesh.runner.shim_processes import Process

__all__ = ["RAN", "SESSION_MARK", "Repair"]

RAN = "ran"
"""What a result says of a repair turn that ran; otherwise why it did not."""

SESSION_MARK = "{cmesh:session}"
"""Stands in the arguments for an id that the agent's first turn makes."""

REASON_CHARACTERS = 500
NOT_ASKED = "it was not asked for"
NO_WORD = "the worker said nothing while the task had time"


class Repair(Run):
    """One more turn, with the spools and the limits of the first and what is left of its time.

    Attributes:
        reason: `RAN`, or why it did not.
    """

    def __init__(
        self,
        task: Run,
        record: "dict[str, Any]",
        directory: str,
        deadline: float,
        note: "Callable[[Process], None]",
    ) -> None:
        """Make ready.

        Args:
            task: whose agent has ended by itself, and left nothing.
            record: what started it, with the arguments of the next turn in `again`.
            directory: the task's own.
            deadline: when the task's time is over, by the monotonic clock.
            note: told the first process of the new namespace, before anything else is in there.
        """
        poll = select.poll()
        poll.register(task.signals, select.POLLIN)
        super().__init__(task.signals, poll, task.spools)
        self.files, self.task_id = task.files, task.task_id
        self.grace_s, self.reason = task.grace_s, NOT_ASKED
        self._contained = task.namespace is not None
        self._record, self._directory, self._note = record, directory, note
        self._ends = deadline
        self._turn: dict[str, object] = {
            "exit_code": task.status,
            "stdout_kept": task.spools[0].kept,
            "stderr_kept": task.spools[1].kept,
        }

    def run(self) -> int:
        """Ask the worker, run the turn if it wants one; return how many processes live.

        Blocks at most until the task's deadline, and the end of what it started.
        """
        session = self._word()
        if self.verdict != "exited":
            return self._end_tree()  # a cancel is what was counted
        if not session:
            return 0
        try:
            self._start(session)
        except (OSError, ValueError) as error:
            self.verdict, self.reason = "spawn_failed", error_text(error)[:REASON_CHARACTERS]
        self._watch()
        left = self._end_tree()
        self._drain()
        return left

    def fields(self) -> "dict[str, object]":
        """Return what the result says of the first turn's end, and of this one."""
        return {**self._turn, "again": self.reason}

    def _word(self) -> str:
        """Tell that the first turn has ended, and wait for the session to go on in; empty = none.

        While no daemon lives nobody answers; the next one does, so only the deadline ends it.
        """
        try:
            self.files.record(TURN, self._turn)
        except OSError as error:
            self.reason = error_text(error)[:REASON_CHARACTERS]
            return ""
        self.files.tell()
        self.metered = False  # a limit that the first turn has reached takes nothing from its end
        while (wait_s := self._ends - time.monotonic()) > 0:
            # Before the wait: the signal of an earlier wish may have been taken by another look.
            self._see_end()
            if self.verdict != "exited":
                return ""
            if (word := self.files.again()) is not None:
                self.metered, self.reason = True, word[1] or NOT_ASKED
                return word[0]
            self._await_signal(wait_s)
        self.reason = NO_WORD
        return ""

    def _await_signal(self, wait_s: float) -> None:
        limit = time.monotonic() + wait_s
        while (left_s := limit - time.monotonic()) > 0:
            if not self.poll.poll(int(left_s * 1000) + 1):
                return
            if signal.SIGTERM in os.read(self.signals, CHUNK_BYTES):
                return

    def _start(self, session: str) -> None:
        record: dict[str, Any] = {
            **self._record,
            "argv": _arguments(self._record["again"], session),
        }
        if disk := record.get("disk"):
            self.disk = DiskWatch(disk)
        for spool in self.spools:
            spool.renew()
        out, err = self.spools
        stdin = f"{self._directory}/{AGAIN_STDIN}"
        try:
            if self._contained:
                libc = ctypes.CDLL(None, use_errno=True)
                self.namespace = Namespace(libc, self.spools)
                self._note(self.namespace.first)
                pid = self.namespace.start(record, stdin)
                self.poll.register(self.namespace.report, select.POLLIN)
            else:
                pid = start_agent(record, stdin, out.sink, err.sink)
        finally:
            os.chdir("/")
            os.umask(0o077)
            for spool in self.spools:
                spool.close_sink()
        self.reason = RAN
        self.deadline = self._ends
        self.idle_s = record.get("idle_s") or float("inf")
        self.silent_at = time.monotonic() + self.idle_s
        self.childless = False
        self.agent = process_of(pid)
        for spool in self.spools:
            self.poll.register(spool.source, select.POLLIN)
        self._hear()


def _arguments(again: "Sequence[str]", session: str) -> "list[str]":
    return [part.replace(SESSION_MARK, session) for part in again]
