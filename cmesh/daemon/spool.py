"""A running task's output, read from the shim's spool and turned into numbered events.

Events follow from the bytes alone, so a new life of the daemon reads from the
start and skips what is stored already.
"""

from datetime import datetime

from cmesh.daemon.draft import Draft
from cmesh.model import TaskId
from cmesh.runner.evidence import Exit, Look
from cmesh.runner.reader import Outcome, Reader, RunnerEvent
from cmesh.runner.supervise import Supervisor

__all__ = ["Spool"]

CHUNK_BYTES = 256 * 1024
STDERR_TAIL_BYTES = 8 * 1024


class Spool:
    """The reader of one task's output.

    Attributes:
        outcome: what the whole output says; None until its end was read.
    """

    def __init__(
        self, task_id: TaskId, supervisor: Supervisor, reader: Reader, *, seen_end: int
    ) -> None:
        """Read `task_id`'s spool; events that end at or before `seen_end` are stored."""
        self.outcome: Outcome | None = None
        self._task_id = task_id
        self._supervisor = supervisor
        self._reader = reader
        self._seen_end = seen_end
        self._offset = 0

    def take(self, draft: Draft, look: Look, now: datetime) -> bool:
        """Put the next events into `draft`; True when the look's output is all in."""
        data = self._supervisor.read_spool(self._task_id, self._offset, CHUNK_BYTES)
        self._offset += len(data)
        self._add(draft, self._reader.feed(data), now)
        if self._offset < look.spool_bytes:
            return False
        if look.exit is not None and self.outcome is None:
            self._finish(draft, look.exit, now)
        return True

    def _finish(self, draft: Draft, exit_: Exit, now: datetime) -> None:
        start = max(0, exit_.stderr_kept - STDERR_TAIL_BYTES)
        stderr = self._supervisor.read_spool(
            self._task_id, start, STDERR_TAIL_BYTES, stream="stderr"
        )
        self.outcome = self._reader.finish(exit_, stderr)
        self._add(draft, list(self.outcome.events), now)

    def _add(self, draft: Draft, events: list[RunnerEvent], now: datetime) -> None:
        for event in events:
            if event.end > self._seen_end:
                draft.next_event(now, event.kind, event.text, event.data, spool_end=event.end)
                self._seen_end = event.end
