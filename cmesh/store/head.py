"""The store's own lock, and the head: how far the log was acknowledged, kept apart from it.

A database that lost its tail looks whole from inside; only something outside it can tell.
Nothing here knows what the log holds.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from cmesh.errors import StoreBusy, StoreDamaged
from cmesh.locks import FileLock, Held
from cmesh.store.chain import GENESIS

__all__ = ["STORE_LOCK", "Head", "HeadFile", "StoreLock", "read_head"]

STORE_LOCK = "store.lock"
"""In the store's directory; who has it locked has the store open (`StoreLock`)."""

# Two slots, written in turn: a write torn by a power cut leaves the other one whole. Each
# lies in a block of its own, since disks promise nothing about neighbours in one block.
_SLOT_BYTES = 4096
_SLOTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last row acknowledged: its number and hash."""

    seq: int = 0
    hash: bytes = GENESIS


class HeadFile:
    """`head`: survives power loss once `write` returns. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "head"
        self._fd = -1
        self._next = 0

    def open(self) -> Head | None:
        """Open the file, made when there is none, and return what it says.

        Raises:
            StoreDamaged: the file is there but no slot of it can be read.
        """
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Room for both slots now, so that a full disk can never refuse a head.
        os.posix_fallocate(self._fd, 0, _SLOT_BYTES * _SLOTS)
        data = os.pread(self._fd, _SLOT_BYTES * _SLOTS, 0)
        heads = _heads(data)
        if heads:
            newest = max(heads, key=lambda index: heads[index].seq)
            self._next = (newest + 1) % _SLOTS
            return heads[newest]
        if data.strip(b"\0"):
            raise StoreDamaged(f"`{self.path}` cannot be read, so lost rows could not be noticed")
        return None

    def write(self, head: Head) -> None:
        """Make `head` durable; blocks on the disk."""
        body = f"cmesh head 1 {head.seq} {head.hash.hex()} "
        text = f"{body}{zlib.crc32(body.encode()):08x}\n".encode()
        # INVARIANT: the slot not written now holds the head before this one.
        os.pwrite(self._fd, text.ljust(_SLOT_BYTES, b"\0"), self._next * _SLOT_BYTES)
        os.fdatasync(self._fd)
        self._next = (self._next + 1) % _SLOTS

    def close(self) -> None:
        """Close the file; harmless when it is not open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_head(directory: Path) -> Head | None:
    """Return what the head file of a store says, without touching it; None = nothing readable."""
    try:
        heads = _heads((directory / "head").read_bytes())
    except FileNotFoundError:
        return None
    return max(heads.values(), key=lambda head: head.seq, default=None)


class StoreLock:
    """One process per store, by flock: it ends with the process, however that ends.

    DuckDB's own lock is not enough: it is a POSIX record lock, which the kernel drops
    as soon as this process closes any descriptor of the file.
    """

    def __init__(self, directory: Path) -> None:
        self._lock = FileLock(directory / STORE_LOCK)

    def acquire(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            StoreBusy: another process, or another store object of this one, holds it.
        """
        try:
            self._lock.acquire()
        except Held as error:
            raise StoreBusy(f"`{self._lock.path.parent}` is in use by {error}") from error

    def release(self) -> None:
        """Give the lock back; harmless without it."""
        self._lock.release()


def _heads(data: bytes) -> dict[int, Head]:
    slots = [data[i * _SLOT_BYTES : (i + 1) * _SLOT_BYTES] for i in range(_SLOTS)]
    return {index: head for index, slot in enumerate(slots) if (head := _parse(slot))}


def _parse(slot: bytes) -> Head | None:
    body, _, check = slot.rstrip(b"\0\n").rpartition(b" ")
    words = body.split(b" ")
    if len(words) != 5 or words[:3] != [b"cmesh", b"head", b"1"]:
        return None
    if check != f"{zlib.crc32(body + b' '):08x}".encode():
        return None
    return Head(seq=int(words[3]), hash=bytes.fromhex(words[4].decode()))
