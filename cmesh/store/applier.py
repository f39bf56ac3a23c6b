"""The apply thread: brings journaled rows into DuckDB, a little later and many at a time.

It alone writes to DuckDB after the start. When DuckDB fails, the rows stay in the journal
and it tries again; it never drops one.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

import duckdb

from cmesh.errors import StoreError
from cmesh.store.database import Database, translate
from cmesh.store.journal import Entry, Journal
from cmesh.store.snapshot import Snapshot

__all__ = ["Applier"]

_log = logging.getLogger(__name__)

_LINGER_S = 1.0  # how long rows nobody asks for may gather: DuckDB plans per group, not per row
_RETRY_S = 1.0
_CHUNK_ROWS = 500  # at most so many long texts in one transaction
_SEGMENTS = 3  # with more, a checkpoint frees the older ones


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Work between transactions; `attempts` had been made to apply rows when it was asked for."""

    run: Callable[[int], Snapshot]
    future: "Future[Snapshot]"
    attempts: int


class Applier:
    """The thread, from `start` to `stop`."""

    def __init__(self, database: Database, journal: Journal, applied: int) -> None:
        self._database = database
        self._journal = journal
        self._applied = applied
        self._given = applied
        self._wanted = 0
        self._pending: deque[Entry] = deque()
        self._jobs: deque[_Job] = deque()
        self._problem: StoreError | None = None
        self._attempts = 0
        self._asked = False
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="cmesh-apply", daemon=True)

    @property
    def given(self) -> int:
        """The last row handed over."""
        return self._given

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, entries: Sequence[Entry]) -> None:
        """Take rows that are durable, in order."""
        with self._changed:
            first = not self._pending
            self._pending.extend(entries)
            self._given = entries[-1].seq
            # Woken only for a reason: a thread that wakes takes turns with the event loop.
            if first or self._urgent():
                self._changed.notify_all()

    def wait(self, seq: int, timeout_s: float) -> None:
        """Block until DuckDB has row `seq`.

        Raises:
            StoreError: DuckDB fails (`DiskFull` where that is why), or takes too long.
        """
        with self._changed:
            self._wanted = max(self._wanted, seq)
            # An old failure proves nothing: ask for another attempt, and judge by that.
            self._asked, before = True, self._attempts
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: self._applied >= seq or (self._problem and self._attempts > before),
                timeout_s,
            )
            if self._applied >= seq:
                return
            if done and self._problem is not None:
                raise self._problem
        raise StoreError(f"the database did not take its rows within {timeout_s:g} s")

    def between(self, job: Callable[[int], Snapshot]) -> "Future[Snapshot]":
        """Run `job` in the thread, between transactions, after all rows given so far.

        It gets the number of the last row in DuckDB.
        """
        future: Future[Snapshot] = Future()
        with self._changed:
            # As in `wait`: an old failure proves nothing.
            self._asked = True
            self._jobs.append(_Job(job, future, self._attempts))
            self._changed.notify_all()
        return future

    def stop(self) -> None:
        """Apply what was given, if DuckDB takes it, then end the thread; blocks."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._jobs or self._stopping)
                self._changed.wait_for(self._urgent, _LINGER_S)
                chunk = list(islice(self._pending, _CHUNK_ROWS))
            if chunk:
                self._apply(chunk)
                self._tidy()
            with self._changed:
                jobs = [job for job in self._jobs if self._may_run(job)]
                self._jobs = deque(job for job in self._jobs if job not in jobs)
                ending = self._stopping and (not self._pending or self._problem is not None)
            for job in jobs:
                self._do(job)
            if ending and not self._jobs:
                return

    def _may_run(self, job: "_Job") -> bool:
        if not self._pending:
            return True
        return self._problem is not None and self._attempts > job.attempts

    def _urgent(self) -> bool:
        behind = self._wanted > self._applied
        return behind or bool(self._jobs) or self._stopping or len(self._pending) >= _CHUNK_ROWS

    def _apply(self, chunk: list[Entry]) -> None:
        problem: StoreError | None = None
        applied = chunk[-1].seq
        try:
            self._database.insert(chunk)
        except (duckdb.Error, StoreError) as error:
            applied, problem = self._recover(error)
            problem = None if applied >= chunk[-1].seq else problem
        with self._changed:
            self._applied = max(self._applied, applied)
            while self._pending and self._pending[0].seq <= self._applied:
                self._pending.popleft()
            self._problem, self._asked = problem, False
            self._attempts += 1
            self._changed.notify_all()
            if problem is not None:
                self._changed.wait_for(lambda: self._stopping or self._asked, _RETRY_S)

    def _recover(self, error: duckdb.Error | StoreError) -> tuple[int, StoreError]:
        """Make the database usable again and return how far it really got."""
        problem = error if isinstance(error, StoreError) else translate(error, self._database.path)
        _log.warning("apply_failed error=%s", problem.message)
        try:
            # A failed COMMIT may have been done; a FatalException kills the instance.
            self._database.reopen()
            return self._database.top().seq, problem
        except duckdb.Error as again:
            return self._applied, translate(again, self._database.path)

    def _tidy(self) -> None:
        if len(self._journal.segments()) <= _SEGMENTS:
            return
        try:
            self._database.checkpoint()
        except duckdb.Error as error:
            # The rows are in its WAL all the same; the segments stay until it works.
            self._recover(error)
        else:
            self._journal.drop_through(self._applied)

    def _do(self, job: "_Job") -> None:
        future = job.future
        if not future.set_running_or_notify_cancel():
            return
        if self._problem is not None:
            future.set_exception(self._problem)
            return
        try:
            future.set_result(job.run(self._applied))
        except Exception as error:  # noqa: BLE001  # the asker gets it; the thread must go on
            future.set_exception(error)
