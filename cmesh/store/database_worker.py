"""The database process: the one opener of the DuckDB file, for as long as it runs.

It does what the daemon asks, one thing after another, and decides nothing. Whatever goes
wrong in it is answered and then ends it: what it had not brought in is still in the
journal, and a fresh process knows no dead DuckDB instance.
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import cast

import _duckdb as duckdb

from cmesh import __version__
from cmesh.errors import StoreBusy, StoreError
from cmesh.locks import FileLock, Held
from cmesh.store.database import Database, translate
from cmesh.store.exchange import Answer, Ask, Opening, pack, receive
from cmesh.store.head import Head
from cmesh.store.recovery import bring_in, open_database
from cmesh.text import one_line

__all__ = ["LOCK_FILE", "lock_database", "main"]

LOCK_FILE = "database.lock"
LOCK_LIMIT_S = 5.0
_PR_SET_PDEATHSIG = 1


def main(parent: int) -> None:
    """Serve the daemon, process `parent`, until it is gone or says so."""
    _end_with(parent)
    os.umask(0o077)
    # DuckDB must find nothing at descriptor 1 to write to: the answers have their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    server = _Server()
    while (message := receive(sys.stdin.buffer)) is not None:
        answer = server.answer(cast("Opening | Ask", message))
        answers.write(pack(answer))
        answers.flush()
        if answer.error is not None or server.ended:
            break
    # Without the interpreter's tidying: closing the file could take a checkpoint's time,
    # while the next daemon already waits for it.
    os._exit(0)


class _Server:
    def __init__(self) -> None:
        self.ended = False
        self._lock: FileLock | None = None
        self._database: Database | None = None
        self._head = Head()

    def answer(self, message: Opening | Ask) -> Answer:
        try:
            if isinstance(message, Opening):
                return self._open(message)
            return self._work(message)
        except StoreError as error:
            return Answer(error=error)
        except Exception as error:  # noqa: BLE001  # a bug here must fail its asker with its name
            text = f"{type(error).__name__}: {one_line(str(error))}"
            return Answer(error=StoreError(f"the database process failed: {text}"))

    def _open(self, opening: Opening) -> Answer:
        if opening.version != __version__:
            # It must neither migrate the file under an older daemon nor guess its words.
            raise StoreError(
                f"cmesh {__version__} was installed over {opening.version}, whose daemon still runs",
                hint="restart it: `cmesh down`, then `cmesh up`",
            )
        self._lock = lock_database(opening.directory)
        self._database, opened = open_database(opening)
        self._head = opened.head
        return Answer(applied=self._head.seq, value=opened)

    def _work(self, ask: Ask) -> Answer:
        database, value = self._database, None
        if database is None:
            raise StoreError("the database process was asked before it was opened")
        database.held = ask.hold
        try:
            self._head = bring_in(database, self._head, ask.through)
            if ask.read is not None:
                with database.reading() as cursor:
                    value = ask.read(cursor)
            if ask.work in {"checkpoint", "end"}:
                database.checkpoint()
            if ask.work == "end":
                database.close()
                self.ended = True
        except duckdb.Error as error:
            raise translate(error, database.path) from error
        return Answer(applied=self._head.seq, checkpoints=database.checkpoints, value=value)


def lock_database(directory: Path) -> FileLock:
    """Take the lock of who opens a store's database, which holds until it or its process ends.

    Raises:
        StoreBusy: another process has it, and does not end.
    """
    # DuckDB's own lock vanishes when its process closes any descriptor of the file; this
    # one does not. The process of a daemon that was killed may need a moment to be gone.
    lock = FileLock(directory / LOCK_FILE)
    try:
        lock.acquire_within(LOCK_LIMIT_S)
    except Held as error:
        raise StoreBusy(f"`{directory}` is in use by {error}") from error
    return lock


def _end_with(parent: int) -> None:
    # A stop of the whole group is the daemon's to answer: it still needs this process then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
