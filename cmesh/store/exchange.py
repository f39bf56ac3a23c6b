"""What the daemon and its database process say to each other, and how it crosses.

Pickles over two pipes that nobody else has: both ends are this code, run by one user over
the same files, so neither could make the other do what it cannot do itself. Nothing here
loads DuckDB; the daemon imports it.
"""

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from cmesh.errors import StoreError
from cmesh.store.head import Head

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Reader
else:
    Reader = object

__all__ = ["HEADER", "Answer", "Ask", "Opened", "Opening", "Reader", "pack", "receive", "unpack"]

# `Reader` is a cursor inside a READ ONLY transaction. A read crosses as a function of this
# package that takes one, by its name, with its other arguments bound (`functools.partial`).

HEADER = struct.Struct(">Q")
"""The length of the pickle that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Open the file, bring in journaled rows, compare with the head.

    Attributes:
        acknowledged: the head the rows must reach; None when no head was ever written.
        through: the last row of the journal to bring in; None = whatever is in it, which
            is right only while nobody appends to it.
        incarnation: becomes the store's when it has none.
        version: the daemon's, since its files may have been replaced while it runs.
    """

    directory: Path
    node: str
    acknowledged: Head | None
    through: int | None
    incarnation: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an opening found: the last row, and the schema versions it had to apply."""

    head: Head
    incarnation: str
    migrated: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Bring in the journal's rows up to `through`, which are durable; then do the work.

    `end` makes a checkpoint and closes the file, and the process ends. With `hold` the main
    file stays as it is, however long its WAL gets: somebody copies it.
    """

    through: int
    work: Literal["apply", "read", "checkpoint", "end"]
    read: Callable[[Reader], object] | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcome; after an `error`, and after `end`, the process ends.

    Attributes:
        applied: the last row in the database.
        checkpoints: how often the main file was changed since the process opened it.
        value: what the read returned, or an `Opened`.
    """

    applied: int = 0
    checkpoints: int = 0
    value: object = None
    error: StoreError | None = None


def pack(message: Opening | Ask | Answer) -> bytes:
    """Return a message as it crosses."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def unpack(body: bytes) -> object:
    """Return the message in a body."""
    return pickle.loads(body)  # noqa: S301  # see the module: the other end is this code


def receive(stream: BinaryIO) -> object:
    """Return the next message, or None where the stream ends; blocks."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length = HEADER.unpack(header)[0]
    body = stream.read(length)
    return unpack(body) if len(body) == length else None
