"""Answers of a fleet query as files: made of rows on one node, read as rows on another.

Both in a confined process of `answer_worker.py`; no Parquet is written or read in the daemon.
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from cmesh.errors import DiskFull, QueryRefused, RemoteProtocolError
from cmesh.model import NodeId
from cmesh.store.confined import Confined, Confinement, Program, QueryLimits
from cmesh.store.records import SqlRows
from cmesh.store.sql import Parameters
from cmesh.text import one_line

__all__ = ["LIMITS", "Answer", "AnswerFiles", "Question"]

LIMITS = QueryLimits(engine_s=7.0, wall_s=8.0, answer_bytes=32 * 1024 * 1024)
"""For one file of another machine: the files behind it wait. `answer_bytes` is of rows as JSON."""

WRITE_LIMIT_S = 15.0
"""How long an own file may take to be made."""

_PROGRAM = Program(
    file=Path(__file__).with_name("answer_worker.py"), name="answer", work="the work on the file"
)
_NAME = "answer.parquet"


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
    parameters: Parameters = ()
    limit: int
    most_bytes: int
    asker: NodeId
    own: bool


class AnswerFiles:
    """Makes files, or reads those of other machines, one after another; `close` it.

    INVARIANT: a file that breaks the process costs its sender its own rows: the next file is
    read by a new one. Belongs to one event loop.
    """

    def __init__(self, confinement: Confinement, limits: QueryLimits = LIMITS) -> None:
        self._confinement = confinement
        self._limits = limits
        self._turn = asyncio.Lock()
        # One thread for as long as this is open: a process in a sandbox dies with its thread.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="answer")
        self._starting: asyncio.Task[Confined] | None = None

    async def __aenter__(self) -> Self:
        """Start the process, without waiting for it."""
        self._prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def write(self, rows: SqlRows, path: Path, most_bytes: int) -> Answer:
        """Write rows to a new file; those that do not fit into `most_bytes` are left out.

        Types that Parquet or JSON has no word for come as text. The file is of mode 0600 and the
        caller's to remove, also after an error.

        Raises:
            QueryRefused: no file could be made of them.
            DiskFull: there is no room.
        """
        table: dict[str, object] = {
            "columns": rows.columns,
            "types": rows.types,
            "rows": rows.rows,
            "bytes": most_bytes,
        }
        async with self._turn, self._process() as process:
            made = await self._ask(process, {"write": table}, WRITE_LIMIT_S)
            if "error" in made:
                raise QueryRefused(f"no file could be made of the rows: {_said(made)}")
            digest, size = hashlib.sha256(), int(made["bytes"])
            try:
                with _new(path) as file:
                    while file.tell() < size:
                        told = await self._ask(process, {"piece": file.tell()}, WRITE_LIMIT_S)
                        piece = base64.b64decode(told["data"])
                        digest.update(piece)
                        file.write(piece)
            except OSError as error:
                raise DiskFull(f"no room for an answer: {error.strerror}") from error
        count = int(made["rows"])
        return Answer(
            sha256=digest.hexdigest(),
            bytes=size,
            rows=count,
            truncated=rows.truncated or count < len(rows.rows),
            elapsed_ms=rows.elapsed_ms,
            head_seq=rows.head_seq,
        )

    async def read(self, path: Path, limit: int, most_bytes: int) -> SqlRows:
        """Return up to `limit` rows of a file, and up to `most_bytes` of them as JSON.

        Raises:
            RemoteProtocolError: it is no file of rows, or reading it takes too much.
            QueryRefused: the process did not start.
            DiskFull: there is no room for a copy, where the file system has no hard links.
        """
        async with self._turn, self._process() as process:
            shown = process.directory / _NAME
            await asyncio.to_thread(_show, path, shown)
            ask: dict[str, object] = {
                "read": f"{process.seen_at}/{_NAME}",
                "limit": limit,
                "bytes": most_bytes,
            }
            try:
                found = await self._ask(process, ask, self._limits.wall_s)
            except QueryRefused as error:
                raise RemoteProtocolError(
                    f"the peer's file was not read: {error.message}"
                ) from error
            shown.unlink()
        if "error" in found:
            raise RemoteProtocolError(f"the peer's file cannot be read: {_said(found)}")
        return SqlRows(
            columns=tuple(map(str, found["columns"])),
            types=tuple(map(str, found["types"])),
            rows=cast("list[list[object]]", found["rows"]),
            cut_by="rows" if found["truncated"] else "",
            elapsed_ms=0,
            head_seq=0,
            held_by=process.held_by,
        )

    async def close(self) -> None:
        """End the process; cancelled, it is ended all the same."""
        leaving = self._let_go()
        self._threads.shutdown(wait=False)
        await leaving

    def _prepare(self) -> "asyncio.Task[Confined]":
        if self._starting is None:
            # A task of its own: a start that was cancelled half way would be a process of nobody.
            self._starting = asyncio.ensure_future(
                self._confinement.begin(_PROGRAM, self._limits, self._threads)
            )
        return self._starting

    @contextlib.asynccontextmanager
    async def _process(self) -> AsyncGenerator[Confined]:
        """Give the process; after any error, also a cancel, it is ended.

        Its next answer would be the wrong one.
        """
        try:
            yield await asyncio.shield(self._prepare())
        except BaseException:
            await self._let_go()
            raise

    async def _ask(
        self, process: Confined, message: dict[str, object], limit_s: float
    ) -> dict[str, Any]:
        return await process.ask(message, limit_s=limit_s, limit_bytes=self._limits.answer_bytes)

    def _let_go(self) -> "asyncio.Future[None]":
        starting, self._starting = self._starting, None
        return self._confinement.let_go(starting)


def _show(path: Path, shown: Path) -> None:
    try:
        shown.hardlink_to(path)
    except OSError:  # a file system without links
        try:
            shutil.copyfile(path, shown)
        except OSError as error:
            raise DiskFull(f"no room for a peer's answer: {error.strerror}") from error


def _new(path: Path) -> BinaryIO:
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
    )


def _said(answer: dict[str, Any]) -> str:
    """Return the process's words on what is wrong, without the file's place."""
    return one_line(str(answer.get("message", "")).partition("/")[0], 200)
