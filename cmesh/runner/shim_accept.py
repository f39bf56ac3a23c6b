"""An acceptance command: run by the shim itself, after its agent. Standard library only.

In a sandbox, a namespace, an environment and with an output of its own. All that the agent could
have a hand in is the tree that it is run in; what to run was read before the agent began.
"""

import ctypes
import os
import select
import time

from cmesh.runner.shim_disk import DiskWatch
from cmesh.runner.shim_launch import Namespace, error_text, start_agent
from cmesh.runner.shim_processes import process_of
from cmesh.runner.shim_run import Run
from cmesh.runner.shim_spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cmesh.runner.shim_processes import Process

__all__ = ["ACCEPT_TAIL", "Acceptance", "not_run"]

ACCEPT_TAIL = "accept.tail"
"""The file with the end of the command's output, in the task's directory, out of its reach."""

TAIL_BYTES = 16 * 1024
"""So much of the output is kept, from its end: that is where a test run says what failed."""

ERROR_CHARACTERS = 500


def not_run(why: str) -> "dict[str, object]":
    """Return what a result says of a command that was not started."""
    return {"end": "not_run", "reason": why}


class Acceptance(Run):
    """One run of the command, to its end and to zero processes."""

    def __init__(
        self,
        task: Run,
        record: "dict[str, Any]",
        left_s: float,
        note: "Callable[[Process], None]",
    ) -> None:
        """Make ready.

        Args:
            task: whose agent has ended, with all that it left.
            record: the command's launch record.
            left_s: seconds that the task still has.
            note: told the first process of its namespace, before anything else is in there.
        """
        poll = select.poll()
        poll.register(task.signals, select.POLLIN)
        self._out = Spool()
        # Both of its outputs go into one pipe: the order of the lines says what failed.
        self._twin = self._out.keep_tail(TAIL_BYTES)
        super().__init__(task.signals, poll, [self._out])
        self.files, self.task_id = task.files, task.task_id
        self._contained = task.namespace is not None
        self._record, self._left_s, self._note = record, left_s, note
        self.grace_s, self.metered = record["grace_s"], False  # what the agent spent is spent
        self._began = self._took_s = 0.0

    def run(self) -> int:
        """Run it; return how many processes live. Blocks at most for the task's time."""
        self._began = time.monotonic()
        self._see_end()
        if self.verdict == "exited":
            try:
                self._start()
            except (OSError, ValueError) as error:
                self.verdict, self.error = "spawn_failed", error_text(error)
        self._watch()
        self._took_s = time.monotonic() - self._began
        left = self._end_tree()
        self._drain()
        return left

    def fields(self, path: str) -> "dict[str, object]":
        """Return what the result says of it, with the end of its output in a file."""
        reason = self.error
        if self.verdict == "timed_out":
            reason = "the task's time was over"
        elif self.verdict == "cancelled":
            reason = "the task was ended"
        tail, trouble = self._out.tail, ""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(fd, tail)
            finally:
                os.close(fd)
        except OSError as error:
            tail, trouble = b"", error_text(error)
        return {
            "end": self.verdict,
            "exit_code": self.status,
            "reason": reason[:ERROR_CHARACTERS],
            "runtime_s": round(self._took_s, 3),
            "output_bytes": self._out.total,
            "output_kept": len(tail),
            "output_lost": trouble,
        }

    def _start(self) -> None:
        if record := self._record.get("disk"):
            self.disk = DiskWatch(record)
        if self._contained:
            libc = ctypes.CDLL(None, use_errno=True)
            self.namespace = Namespace(libc, [self._out, self._twin])
            self._note(self.namespace.first)
        try:
            if self.namespace:
                pid = self.namespace.start(self._record, os.devnull)
                self.poll.register(self.namespace.report, select.POLLIN)
            else:
                pid = start_agent(self._record, os.devnull, self._out.sink, self._twin.sink)
        finally:
            os.chdir("/")
            os.umask(0o077)
            self._out.close_sink()
        self.deadline = time.monotonic() + max(0.0, self._left_s)
        self.childless = False
        self.agent = process_of(pid)
        self.poll.register(self._out.source, select.POLLIN)
        self._hear()
