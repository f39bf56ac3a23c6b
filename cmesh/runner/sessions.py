"""The conversations of agents, one directory a thread, so that a later turn can go on.

They lie beside the task directories, which go, and hold nothing of the login. A directory
is kept until `KEEP` after the last turn's end. Nothing here starts or reads a conversation.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cmesh.locks import is_locked
from cmesh.model import TaskId
from cmesh.runner.manifest import Session
from cmesh.runner.task_files import delete_tree

__all__ = ["KEEP", "LOCK", "Place", "Sessions"]

KEEP = timedelta(days=7)
"""How long a conversation is kept after its last turn has ended."""

LOCK = "lock"
_FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one conversation lies.

    Attributes:
        thread: the first task, whose id the agent knows the conversation by.
        files: the agent's own files; the agent's home has a link that leads there.
        lock: held by the shim of the turn that runs, so that no two run at once.
    """

    thread: TaskId
    files: Path
    lock: Path


class Sessions:
    """All kept conversations of this worker; blocks on the disk for a few look-ups."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def place(self, thread: TaskId) -> Place:
        """Return where a conversation lies; it need not exist."""
        base = self.directory / thread
        return Place(thread=thread, files=base / _FILES, lock=base / LOCK)

    def kept(self, thread: TaskId, session: Session) -> bool:
        """Say whether the agent's record of a conversation is there, so that it can go on."""
        pattern = session.file.replace("{session_id}", thread)
        try:
            return any(path.is_file() for path in self.place(thread).files.glob(pattern))
        except OSError:
            return False

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


def _locked(path: Path) -> bool:
    """Say whether a running turn holds the conversation; what cannot be asked holds none."""
    try:
        return is_locked(str(path))
    except OSError:
        return False
