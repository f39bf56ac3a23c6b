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
from cmesh.runner.evidence import Exit, Look, Turn
from cmesh.runner.manifest import Session
from cmesh.runner.meter import Spent, Terms
from cmesh.runner.reader import Outcome, Reader, RunnerEvent, joined
from cmesh.runner.shim_repair import RAN
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
        first: what the first of two turns says, once its end was read; None = it was not.
    """

    def __init__(
        self,
        task_id: TaskId,
        supervisor: Supervisor,
        reader: Reader,
        redactor: Redactor,
        *,
        seen_end: int,
        session: Session | None = None,
    ) -> None:
        """Read `task_id`'s spool; events that end at or before `seen_end` are stored.

        `session` says how the runner counts in a second turn.
        """
        self.outcome: Outcome | None = None
        self.exit: Exit | None = None
        self.first: Outcome | None = None
        self._session = session
        self._second = False
        self._errors_from = 0
        self._task_id = task_id
        self._supervisor = supervisor
        self._reader = reader
        self._seen_end = seen_end
        self._offset = 0
        self._redactor = redactor
        self._stream = Stream(redactor)
        self._hits = self._first_hits = 0

    @property
    def output_hits(self) -> int:
        """Secrets in standard output so far."""
        return self._first_hits + self._stream.hits

    @property
    def hits(self) -> int:
        """Secrets so far, in standard output, in standard error and in texts."""
        return self.output_hits + self._hits

    @property
    def terms(self) -> Terms | None:
        """What the run is held to; None = an older version started it."""
        return self._reader.meter.terms if self._reader.meter else None

    @property
    def spent(self) -> Spent | None:
        """The limit that the output so far has spent; None = none, or nothing is held to any."""
        return self._reader.meter.spent if self._reader.meter else None

    @property
    def reached(self) -> Spent | None:
        """A limit of which the first turn has left nothing; None = there is of each."""
        reader = self._reader
        return reader.meter.reached(reader.used) if reader.meter else None

    def take(self, draft: Draft, look: Look, now: datetime, turn: Turn | None = None) -> bool:
        """Put the next events into `draft`; True when the look's output is all in.

        `turn` is where the first of two turns ended, as soon as the shim says it.
        """
        if turn is not None and self.first is None and self._offset >= turn.stdout_kept:
            self._end_turn(draft, turn, now)
        most = CHUNK_BYTES
        if turn is not None and self.first is None:
            most = min(most, turn.stdout_kept - self._offset)
        data = self._supervisor.read_spool(self._task_id, self._offset, most)
        self._offset += len(data)
        if data and self.first is not None:
            self._begin_second()
        self._add(draft, self._reader.feed(self._stream.feed(data)), now)
        if self._offset < look.spool_bytes:
            return False
        if turn is not None and self.first is None:
            self._end_turn(draft, turn, now)
        if look.exit is not None and self.outcome is None:
            self._finish(draft, look.exit, now)
        return True

    def _end_turn(self, draft: Draft, turn: Turn, now: datetime) -> None:
        """Read the end of the first of two turns, at its place in the spool."""
        self._add(draft, self._reader.feed(self._stream.finish()), now)
        self._first_hits, self._stream = self._stream.hits, Stream(self._redactor)
        exit_ = Exit(verdict="exited", exit_code=turn.exit_code, stderr_kept=turn.stderr_kept)
        first = self._reader.finish(exit_, self._stderr(exit_, turn.stderr_kept))
        self.first = replace(first, text=self._clean(first.text), error=self._clean(first.error))
        self._add(draft, list(first.events), now)
        self._errors_from = turn.stderr_kept

    def _begin_second(self) -> None:
        """Read on as the second turn; harmless when it is read already."""
        if self._second:
            return
        self._second, session = True, self._session
        self._reader = self._reader.next_turn(
            adds_up_cost=session is not None and session.adds_up_cost,
            adds_up_tokens=session is not None and session.adds_up_tokens,
        )

    def _finish(self, draft: Draft, exit_: Exit, now: datetime) -> None:
        self._add(draft, self._reader.feed(self._stream.finish()), now)
        self.exit = exit_
        ran = self.first is not None and exit_.turn is not None and exit_.turn.again == RAN
        if ran:
            self._begin_second()
        outcome = self._reader.finish(exit_, self._stderr(exit_))
        if ran and self.first is not None:
            session = self._session
            cost, tokens = session and session.adds_up_cost, session and session.adds_up_tokens
            outcome = joined(self.first, outcome, cost=bool(cost), tokens=bool(tokens))
        self.outcome = replace(
            outcome, text=self._clean(outcome.text), error=self._clean(outcome.error)
        )
        self._add(draft, list(self.outcome.events), now)

    def _stderr(self, exit_: Exit, until: int | None = None) -> bytes:
        """Return the tail of standard error without secrets; of the first turn `until` its end."""
        most = STDERR_TAIL_BYTES + STDERR_BEFORE_BYTES
        start = max(self._errors_from, exit_.stderr_kept - most)
        size = most if until is None else until - start
        tail = self._supervisor.read_spool(self._task_id, start, size, stream="stderr")
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
