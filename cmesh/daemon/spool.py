"""A running task's output, read from the shim's spool and turned into numbered events.

Events follow from the bytes alone, so a new life of the daemon reads from the
start and skips what is stored already. INVARIANT: nothing of an output goes on from here, to
store, peer or receipt, before secrets were taken out of it; that moves no offset.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cmesh.daemon.draft import Draft
from cmesh.model import TaskId
from cmesh.redact import Redactor, Stream
from cmesh.runner.evidence import Exit, Look
from cmesh.runner.meter import Spent, Terms
from cmesh.runner.reader import Outcome, Reader, RunnerEvent
from cmesh.runner.supervise import Supervisor

__all__ = ["Spool", "copy_clean"]

CHUNK_BYTES = 256 * 1024
STDERR_TAIL_BYTES = 8 * 1024
STDERR_BEFORE_BYTES = 8 * 1024
"""Read before the tail: a secret that begins there is cut off in it and would not be known."""


class Spool:
    """The reader of one task's output.

    Attributes:
        outcome: what the whole output says; None until its end was read.
        exit: the end that `outcome` rests on.
    """

    def __init__(
        self,
        task_id: TaskId,
        supervisor: Supervisor,
        reader: Reader,
        redactor: Redactor,
        *,
        seen_end: int,
    ) -> None:
        """Read `task_id`'s spool; events that end at or before `seen_end` are stored."""
        self.outcome: Outcome | None = None
        self.exit: Exit | None = None
        self._task_id = task_id
        self._supervisor = supervisor
        self._reader = reader
        self._seen_end = seen_end
        self._offset = 0
        self._redactor = redactor
        self._stream = Stream(redactor)
        self._hits = 0

    @property
    def output_hits(self) -> int:
        """Secrets in standard output so far."""
        return self._stream.hits

    @property
    def hits(self) -> int:
        """Secrets so far, in standard output, in standard error and in texts."""
        return self._stream.hits + self._hits

    @property
    def terms(self) -> Terms | None:
        """What the run is held to; None = an older version started it."""
        return self._reader.meter.terms if self._reader.meter else None

    @property
    def spent(self) -> Spent | None:
        """The limit that the output so far has spent; None = none, or nothing is held to any."""
        return self._reader.meter.spent if self._reader.meter else None

    def take(self, draft: Draft, look: Look, now: datetime) -> bool:
        """Put the next events into `draft`; True when the look's output is all in."""
        data = self._supervisor.read_spool(self._task_id, self._offset, CHUNK_BYTES)
        self._offset += len(data)
        self._add(draft, self._reader.feed(self._stream.feed(data)), now)
        if self._offset < look.spool_bytes:
            return False
        if look.exit is not None and self.outcome is None:
            self._finish(draft, look.exit, now)
        return True

    def _finish(self, draft: Draft, exit_: Exit, now: datetime) -> None:
        self._add(draft, self._reader.feed(self._stream.finish()), now)
        self.exit = exit_
        outcome = self._reader.finish(exit_, self._stderr(exit_))
        self.outcome = replace(
            outcome, text=self._clean(outcome.text), error=self._clean(outcome.error)
        )
        self._add(draft, list(self.outcome.events), now)

    def _stderr(self, exit_: Exit) -> bytes:
        """Return the tail of standard error without secrets."""
        most = STDERR_TAIL_BYTES + STDERR_BEFORE_BYTES
        start = max(0, exit_.stderr_kept - most)
        tail = self._supervisor.read_spool(self._task_id, start, most, stream="stderr")
        stream = Stream(self._redactor)
        clean = stream.feed(tail) + stream.finish()
        self._hits += stream.hits
        return clean[-STDERR_TAIL_BYTES:]

    def _clean(self, text: str) -> str:
        clean, hits = self._redactor.text(text)
        self._hits += hits
        return clean

    def _clean_data(self, data: Mapping[str, object]) -> dict[str, object]:
        clean, hits = self._redactor.data(data)
        self._hits += hits
        return clean

    def _add(self, draft: Draft, events: list[RunnerEvent], now: datetime) -> None:
        for event in events:
            if event.end > self._seen_end:
                text, data = self._clean(event.text), self._clean_data(event.data)
                draft.next_event(now, event.kind, text, data, spool_end=event.end)
                self._seen_end = event.end


def copy_clean(source: Path, target: Path, redactor: Redactor) -> str:
    """Write a copy of an output without its secrets; return the SHA-256 of the source. Blocks.

    Raises:
        OSError: the source cannot be read, or there is no room.
    """
    hasher, stream = hashlib.sha256(), Stream(redactor)
    with source.open("rb") as raw, target.open("wb") as clean:
        while data := raw.read(CHUNK_BYTES):
            hasher.update(data)
            clean.write(stream.feed(data))
        clean.write(stream.finish())
    return hasher.hexdigest()
