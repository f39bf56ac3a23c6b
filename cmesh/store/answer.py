"""Answers of a fleet query as files: made of rows on one node, read as rows on another.

Both in a confined process of `answer_worker.py`; no Parquet is written or read in the daemon.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cmesh.errors import DiskFull, QueryRefused, RemoteProtocolError
from cmesh.model import NodeId
from cmesh.store.child import spawn
from cmesh.store.records import SqlRows
from cmesh.store.sql import SqlValue
from cmesh.text import one_line

__all__ = ["Answer", "AnswerReader", "Question", "write_answer"]

WORK_LIMIT_S = 15.0
"""How long a file may take to be made, the process's start included."""

READ_LIMIT_S = 8.0
"""How long a file of another machine may take to be read, likewise: the files behind it wait."""

JSON_BYTES = 32 * 1024 * 1024
"""The longest word of the process."""

_HEADER = struct.Struct(">I")
_WORKER = Path(__file__).with_name("answer_worker.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A query's rows as a Parquet file, with its digest; `head_seq` is the last row it covers."""

    sha256: str
    bytes: int
    rows: int
    truncated: bool
    elapsed_ms: float
    head_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A peer's query, with what its asker is given.

    Attributes:
        limit: the most rows.
        most_bytes: of the file; rows that do not fit are left out.
        asker: whose process runs it: no peer waits for another, nor the owner for any.
        own: it sees the rows of its own tasks alone.
    """

    text: str
    parameters: Sequence[SqlValue] = ()
    limit: int
    most_bytes: int
    asker: NodeId
    own: bool


class _Gone(Exception):
    """Raised when the process gives no answer: it was ended, or has ended itself."""


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> "_Process":
        return cls(await spawn(str(_WORKER)))

    async def ask(
        self, message: dict[str, object], limit_s: float = WORK_LIMIT_S
    ) -> dict[str, Any]:
        """Return the answer to one message; after `_Gone`, or a cancel, end the process."""
        body = json.dumps(message).encode()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                stdin.write(_HEADER.pack(len(body)) + body)
                await stdin.drain()
                length = _HEADER.unpack(await stdout.readexactly(_HEADER.size))[0]
                if length > JSON_BYTES:
                    raise _Gone("its answer is too long")
                return cast("dict[str, Any]", json.loads(await stdout.readexactly(length)))
        except TimeoutError as error:
            raise _Gone(f"it took more than {limit_s:g} s") from error
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise _Gone("it used too much memory or time, or broke its process") from error

    async def end(self) -> None:
        """Kill and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.wait_closed()


async def write_answer(rows: SqlRows, path: Path, most_bytes: int) -> Answer:
    """Write rows to a new file; those that do not fit into `most_bytes` are left out.

    Types that Parquet or JSON has no word for come as text. The file is the caller's to remove,
    also after an error.

    Raises:
        QueryRefused: no file could be made of them.
        DiskFull: there is no room.
    """
    process = await _Process.start()
    try:
        table: dict[str, object] = {
            "columns": rows.columns,
            "types": rows.types,
            "rows": rows.rows,
            "bytes": most_bytes,
        }
        made = await process.ask({"write": table})
        if "error" in made:
            raise QueryRefused(f"no file could be made of the rows: {_said(made)}")
        digest, size = hashlib.sha256(), int(made["bytes"])
        try:
            with path.open("xb") as file:
                while file.tell() < size:
                    told = await process.ask({"piece": file.tell()})
                    piece = base64.b64decode(told["data"])
                    digest.update(piece)
                    file.write(piece)
        except OSError as error:
            raise DiskFull(f"no room for an answer: {error.strerror}") from error
    except _Gone as error:
        raise QueryRefused(f"no file could be made of the rows: {error}") from error
    finally:
        await process.end()
    count = int(made["rows"])
    return Answer(
        sha256=digest.hexdigest(),
        bytes=size,
        rows=count,
        truncated=rows.truncated or count < len(rows.rows),
        elapsed_ms=rows.elapsed_ms,
        head_seq=rows.head_seq,
    )


class AnswerReader:
    """Reads files of other machines, one after another; `close` it.

    INVARIANT: a file that breaks the process costs its sender its own rows: the next file is
    read by a new one.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._starting: asyncio.Task[_Process] | None = None

    def prepare(self) -> None:
        """Start the process, without waiting for it."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(_Process.start())

    async def read(self, path: Path, limit: int, most_bytes: int) -> SqlRows:
        """Return up to `limit` rows of a file, and up to `most_bytes` of them as JSON.

        Raises:
            RemoteProtocolError: it is no file of rows, or reading it takes too much.
        """
        async with self._turn:
            self.prepare()
            assert self._starting is not None
            process = await asyncio.shield(self._starting)
            ask: dict[str, object] = {"read": str(path), "limit": limit, "bytes": most_bytes}
            try:
                found = await process.ask(ask, READ_LIMIT_S)
            except _Gone as error:
                await self._end()
                raise RemoteProtocolError(f"the peer's file was not read: {error}") from error
            except BaseException:  # its next answer would be the wrong one
                await self._end()
                raise
        if "error" in found:
            raise RemoteProtocolError(f"the peer's file cannot be read: {_said(found)}")
        return SqlRows(
            columns=tuple(map(str, found["columns"])),
            types=tuple(map(str, found["types"])),
            rows=cast("list[list[object]]", found["rows"]),
            cut_by="rows" if found["truncated"] else "",
            elapsed_ms=0,
            head_seq=0,
        )

    async def close(self) -> None:
        """End the process."""
        async with self._turn:
            await self._end()

    async def _end(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            await (await asyncio.shield(starting)).end()


def _said(answer: dict[str, Any]) -> str:
    """Return the process's words on what is wrong, without the file's place."""
    return one_line(str(answer.get("message", "")).partition("/")[0], 200)
