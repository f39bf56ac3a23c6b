"""The journal: where a commit becomes durable, before DuckDB gets it.

DuckDB takes 2-4 ms of planning for a commit of one row; a synced append takes a tenth of
that. Segments are kept until DuckDB has the rows in a checkpointed file, so a damaged
WAL is repaired from here. Nothing here knows tables; it never drops an acknowledged row.
"""

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple, cast

from cmesh.errors import DiskFull
from cmesh.paths import sync
from cmesh.store.row import Value

__all__ = ["SEGMENT_BYTES", "Entry", "Journal", "frames"]

SEGMENT_BYTES = 4 * 1024 * 1024
_FRAME = struct.Struct("<4sII")  # magic, length, CRC-32 of the body
_MAGIC = b"cmj1"


class Entry(NamedTuple):
    """One row on its way into DuckDB: its log columns and its typed columns."""

    seq: int
    ts: int
    kind: str
    task_id: str | None
    canon: str
    hash: bytes
    table: str
    values: Mapping[str, Value]


class Journal:
    """Segment files `journal-<first seq>` in a directory, for the one process that appends.

    `append` belongs to one thread; old segments may be dropped from another meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._position = 0
        self._size = 0
        self._turn_over = False

    def append(self, entries: Sequence[Entry]) -> None:
        """Make the entries durable, all or none; blocks on the disk.

        Raises:
            DiskFull: there is no room; nothing stays written.
            OSError: the disk failed; whether the entries are there is unknown.
        """
        from pydantic_core import to_json  # for the daemon alone, which has it: five times as fast

        body = to_json([_pack(entry) for entry in entries])
        frame = _FRAME.pack(_MAGIC, len(body), zlib.crc32(body)) + body
        if self._fd < 0 or self._turn_over or self._position + len(frame) > self._size:
            self._turn_over = False
            self._rotate(entries[0].seq, len(frame))
        try:
            _write_all(self._fd, frame, self._position)
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            # What was refused must not come back at the next start.
            os.pwrite(self._fd, bytes(_FRAME.size), self._position)
            os.fdatasync(self._fd)
            raise DiskFull(f"no room for the store's journal: {error.strerror}") from error
        self._position += len(frame)

    def turn_over(self) -> None:
        """Have the next append begin a new segment, so that the one in use can be dropped."""
        self._turn_over = True

    def segments(self) -> list[Path]:
        """Return the segments, oldest first."""
        return _segments(self._directory)

    def drop_through(self, seq: int) -> None:
        """Delete the segments that hold nothing after `seq`, except the one in use."""
        paths = self.segments()
        for path, later in pairwise(paths):
            if _first_seq(later) <= seq + 1:
                path.unlink()

    def close(self, *, drop: bool) -> None:
        """Close the segment in use; with `drop`, delete every segment.

        `drop` is only right when DuckDB holds everything in a checkpointed file.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if drop:
            for path in self.segments():
                path.unlink()

    def _rotate(self, first_seq: int, needed: int) -> None:
        # Allocated ahead, so that an append neither changes the file's size, which would cost
        # a second disk write each time, nor ever finds the disk full.
        size = max(SEGMENT_BYTES, needed)
        path = self._directory / f"journal-{first_seq:020d}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
            sync(self._directory)
        except OSError as error:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise DiskFull(f"no room for the store's journal: {error.strerror}") from error
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._position, self._size = fd, 0, size


def frames(directory: Path, *, after: int, through: int | None) -> Iterator[list[Entry]]:
    """Yield whole frames in order, from the one that holds row `after` + 1, if it is there.

    With `through`, a row that is durable, frames behind it are left out: they may be half
    written, or refused and never acknowledged. Without it nobody may be appending, and a
    segment is read up to its first frame that is not whole; whether something acknowledged
    is missing behind that only the head can tell.
    """
    paths = _segments(directory)
    for path, later in zip_longest(paths, paths[1:]):
        if later is not None and _first_seq(later) <= after + 1:
            continue
        bodies = list(_bodies(path.read_bytes()))
        firsts = [_first_in(body) for body in bodies]
        for number, body in enumerate(bodies):
            if through is not None and firsts[number] > through:
                return
            if number + 1 < len(bodies) and firsts[number + 1] <= after + 1:
                continue
            yield [_unpack(item) for item in json.loads(body)]


def _bodies(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _FRAME.size <= len(data):
        magic, length, check = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if magic != _MAGIC or len(body) != length or zlib.crc32(body) != check:
            return
        yield body
        at += _FRAME.size + length


def _first_in(body: bytes) -> int:
    # `[[SEQ,…`: read without the rest, since most of a segment is in the database already.
    return int(body[2 : body.index(b",")])


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("journal-*"))


def _pack(entry: Entry) -> list[object]:
    return [
        entry.seq,
        entry.ts,
        entry.kind,
        entry.task_id,
        entry.canon,
        entry.hash.hex(),
        entry.table,
        entry.values,
    ]


def _unpack(item: list[object]) -> Entry:
    # The frame's checksum vouches for what `_pack` wrote.
    packed = cast("tuple[int, int, str, str | None, str, str, str, dict[str, Value]]", tuple(item))
    seq, ts, kind, task_id, canon, digest, table, values = packed
    return Entry(
        seq=seq,
        ts=ts,
        kind=kind,
        task_id=task_id,
        canon=canon,
        hash=bytes.fromhex(digest),
        table=table,
        values=values,
    )


def _write_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _first_seq(path: Path) -> int:
    return int(path.name.removeprefix("journal-"))
