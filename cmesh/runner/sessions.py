"""The conversations of agents, one directory a thread, so that a later turn can go on.

They lie beside the task directories, which go, and hold nothing of the login. A directory
is kept until `KEEP` after the last turn's end. Nothing here starts or reads a conversation.
"""

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from cmesh.locks import is_locked
from cmesh.model import TaskId
from cmesh.runner.manifest import Session
from cmesh.runner.task_files import delete_tree, replace

__all__ = ["KEEP", "LOCK", "Place", "Sessions"]

KEEP = timedelta(days=7)
"""How long a conversation is kept after its last turn has ended."""

LOCK = "lock"
_FILES = "files"
_ID = "id"
ENTRIES_MOST = 10_000
"""Entries that are looked at for the agent's record of a conversation."""

_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
"""What an id is taken that an agent names: it becomes an argument, and part of a pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one conversation lies.

    Attributes:
        session_id: the agent's own name for it; empty = it has named none yet.
        files: the agent's own files; the agent's home has a link that leads there.
        lock: held by the shim of the turn that runs, so that no two run at once.
    """

    session_id: str
    files: Path
    lock: Path


class Sessions:
    """All kept conversations of this worker; blocks on the disk for a few look-ups."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def place(self, thread: TaskId, session: Session) -> Place:
        """Return where a conversation lies; it need not exist."""
        base = self.directory / thread
        named = thread if session.id == "forced" else _named(base / _ID)
        return Place(session_id=named, files=base / _FILES, lock=base / LOCK)

    def kept(self, thread: TaskId, session: Session) -> bool:
        """Say whether the agent's record of a conversation is there, so that it can go on."""
        place = self.place(thread, session)
        pattern = session.file.replace("{session_id}", place.session_id)
        return bool(place.session_id) and _has_file(place.files, pattern)

    def note(self, thread: TaskId, session: Session, said: str) -> None:
        """Keep the id that an agent gave its conversation, where the agent is who gives it.

        `said` is its word and can be anything: what has not the form of an id is not taken.
        """
        if session.id == "read" and _FORM.fullmatch(said):
            with contextlib.suppress(OSError):  # the conversation was deleted by hand
                replace(self.directory / thread / _ID, said.encode())

    def keep(self, thread: TaskId, now: datetime) -> datetime:
        """Note that a turn was asked for or ended now; return how long it is kept."""
        with contextlib.suppress(OSError):
            os.utime(self.directory / thread, (now.timestamp(), now.timestamp()))
        return now + KEEP

    def sweep(self, now: datetime, held: Callable[[TaskId], bool]) -> list[TaskId]:
        """Delete what was kept long enough; return which. Blocks on the disk.

        `held` names conversations that a task here still needs.
        """
        gone: list[TaskId] = []
        entries = list(self.directory.iterdir()) if self.directory.is_dir() else []
        for entry in entries:
            thread = TaskId(entry.name)
            if self._over(entry, now) and not held(thread) and not _locked(entry / LOCK):
                delete_tree(entry)
                gone.append(thread)
        return gone

    def _over(self, entry: Path, now: datetime) -> bool:
        try:
            last = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
        except OSError:
            return False
        return last + KEEP <= now


def _has_file(files: Path, pattern: str) -> bool:
    """Say whether there is a file that fits a pattern; what is too large to be searched has none.

    INVARIANT: a task made what lies there. No link is followed, so that forty links to `.` are
    not 64,000 places, and the walk ends after `ENTRIES_MOST` entries.
    """
    waiting, left = [(files, pattern.split("/"))], ENTRIES_MOST
    while waiting:
        directory, (part, *rest) = waiting.pop()
        deep = part == "**"
        if deep and rest:
            waiting.append((directory, rest))
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in islice(entries, left):
                left -= 1
                if not deep and not fnmatchcase(entry.name, part):
                    continue
                if not deep and not rest and entry.is_file(follow_symlinks=False):
                    return True
                if (deep or rest) and entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), [part, *rest] if deep else rest))
    return False


def _named(path: Path) -> str:
    """Return the id that was kept; empty = none was, or somebody wrote another thing there."""
    try:
        said = path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return said if _FORM.fullmatch(said) else ""


def _locked(path: Path) -> bool:
    """Say whether a running turn holds the conversation; what cannot be asked holds none."""
    try:
        return is_locked(str(path))
    except OSError:
        return False
