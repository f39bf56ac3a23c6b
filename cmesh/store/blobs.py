"""Large outputs as files named by their SHA-256, and prompts kept only while needed.

Everything here blocks on the disk. A file is complete and durable once it has its name.
"""

import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Collection, Generator, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from cmesh.errors import StoreError
from cmesh.model import TaskId
from cmesh.paths import ensure_private_dir, sync

__all__ = ["Blobs", "Prompts"]

_CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The folder `blobs/` of a store; files are `ab/<sha256>`, or `incoming-*` until whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "blobs"
        ensure_private_dir(self.directory)
        for left in self.directory.glob("incoming-*"):
            left.unlink()
        self._lock = threading.Lock()
        self._holding = False
        # INVARIANT: neither may be deleted: what was stored, or found here, for rows that are
        # still to come; and what rows name that came after those that the deleter has read.
        self._pending: set[str] = set()
        self._settled: set[str] = set()

    def add(self, data: bytes | Path) -> str:
        """Store bytes, or a copy of a file's, and return their SHA-256 in hex.

        Raises:
            OSError: the disk is full or failed; nothing is left behind.
        """
        incoming = self.directory / f"incoming-{secrets.token_hex(8)}"
        try:
            sha256 = _write(incoming, data)
            self._name(incoming, sha256)
        finally:
            incoming.unlink(missing_ok=True)
        return sha256

    def take(self, file: Path, sha256: str) -> None:
        """Store a file that lies in this folder, by the digest that its writer has checked.

        Raises:
            OSError: the disk is full or failed; the file is where it was.
        """
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._name(file, sha256)

    def path(self, sha256: str) -> Path | None:
        """Return the file with this digest, or None when there is none."""
        if not _SHA256.fullmatch(sha256):
            return None
        path = self._path(sha256)
        return path if path.is_file() else None

    def read(self, sha256: str, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes from `offset`.

        Raises:
            StoreError: there is no such file.
        """
        path = self.path(sha256)
        if path is None:
            raise StoreError(f"no stored output has sha256 `{sha256[:64]}`")
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)

    @property
    def watching(self) -> bool:
        """Whether it matters which files the rows name that become durable now."""
        return self._holding or bool(self._pending)

    def hold(self, sha256: str) -> bool:
        """Say whether there is a file with this digest, and keep it until a row has named it."""
        with self._lock:
            there = self.path(sha256) is not None
            if there:
                self._pending.add(sha256)
        return there

    def named(self, digests: Collection[str]) -> None:
        """Take note that durable rows name these files now."""
        with self._lock:
            if self._holding:
                self._settled.update(digests)
            else:
                self._pending.difference_update(digests)

    @contextlib.contextmanager
    def holding(self) -> Generator[None]:
        """Keep what is stored or named meanwhile from being deleted. Read the rows inside it."""
        self._holding = True
        try:
            yield
        finally:
            with self._lock:
                self._holding = False
                self._pending -= self._settled
                self._settled.clear()

    def drop_except(self, used: AbstractSet[str]) -> tuple[int, int]:
        """Delete the files that nobody needs; return how many, and bytes. Inside `holding`."""
        files, size = 0, 0
        for path in self.directory.glob("??/*"):
            with self._lock:
                needed = any(path.name in some for some in (used, self._pending, self._settled))
                if _SHA256.fullmatch(path.name) and not needed:
                    size += path.stat().st_size
                    path.unlink()
                    files += 1
        return files, size

    def _name(self, whole: Path, sha256: str) -> None:
        path = self._path(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with self._lock:
            self._pending.add(sha256)
            whole.replace(path)
        sync(path.parent)

    def _path(self, sha256: str) -> Path:
        return self.directory / sha256[:2] / sha256


class Prompts:
    """Prompts of unfinished tasks, for a store that must not keep prompts.

    A task must survive a restart before it starts, so its prompt has to be somewhere:
    here it is a file that goes when the task ends, and in no log, backup or snapshot.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "prompts"
        ensure_private_dir(self._directory)

    def keep(self, task_id: TaskId, prompt: str) -> None:
        """Make a prompt durable."""
        path = self._directory / task_id
        _write(path, prompt.encode("utf-8", "replace"))
        sync(self._directory)

    def read(self, task_id: TaskId) -> str:
        """Return a prompt; empty when it is not kept."""
        with contextlib.suppress(FileNotFoundError):
            return (self._directory / task_id).read_text("utf-8")
        return ""

    def drop(self, task_id: TaskId) -> None:
        """Delete a prompt; harmless when it is not kept."""
        (self._directory / task_id).unlink(missing_ok=True)

    def drop_except(self, task_ids: set[TaskId]) -> None:
        """Delete the prompts of tasks that ended while nobody could tell."""
        for path in self._directory.iterdir():
            if path.name not in task_ids:
                path.unlink()


def _write(path: Path, data: bytes | Path) -> str:
    hasher = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for chunk in _chunks(data):
            hasher.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(fd)
    return hasher.hexdigest()


def _chunks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
