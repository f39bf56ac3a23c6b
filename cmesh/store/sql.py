"""SQL of users: on a copy, in a process that can do nothing else, ended when it takes too long.

The store itself never sees a user's SQL. An answer covers every row committed before the
question was asked.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cmesh.errors import QueryRefused
from cmesh.store.child import spawn
from cmesh.store.misnamed import Columns, misnamed
from cmesh.store.records import SqlRows
from cmesh.store.snapshot import Snapshot
from cmesh.text import one_line

__all__ = ["QueryLimits", "QueryProcess", "SqlValue"]

SqlValue = str | int | float | bool | None

SQL_BYTES = 64 * 1024
_HEADER = struct.Struct(">I")
_OVERHEAD = 2  # JSON as sent may be this much longer than the rows' own
_WORKER = Path(__file__).with_name("query_worker.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """What a query may take.

    Attributes:
        wall_s: then its process is killed.
        answer_bytes: of rows as JSON; the rest is cut.
        start_s: for a process to start and open a copy.
        queue_s: how long to wait for the queries before.
        idle_s: then the processes end.
    """

    wall_s: float = 8.0
    answer_bytes: int = 8 * 1024 * 1024
    start_s: float = 20.0
    queue_s: float = 30.0
    idle_s: float = 60.0


class QueryProcess:
    """At most one query at a time, in a process kept warm; another waits, started, unused."""

    def __init__(
        self,
        take: Callable[[], Awaitable[Snapshot]],
        columns: Callable[[], Awaitable[Columns]],
        limits: QueryLimits | None = None,
        part: Mapping[str, object] | None = None,
    ) -> None:
        """Make it; `part` says which rows of a copy are to be seen, None = all."""
        self._part = part
        self._take = take
        self._columns = columns
        self._limits = limits or QueryLimits()
        self._turn = asyncio.Lock()
        self._worker: _Worker | None = None
        self._spare: _Worker | None = None
        self._snapshot: Snapshot | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def run(
        self, text: str, parameters: Sequence[SqlValue], limit: int, head_seq: int
    ) -> SqlRows:
        """Run one SELECT on a copy that holds row `head_seq`.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
            StoreError: no copy could be made.
        """
        if len(text.encode("utf-8", "replace")) > SQL_BYTES:
            raise QueryRefused(f"the query is longer than {SQL_BYTES} bytes")
        try:
            async with asyncio.timeout(self._limits.queue_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise QueryRefused("other queries are still running", hint="try again") from error
        try:
            return await self._run(text, parameters, limit, head_seq)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """End the processes and delete the copy."""
        if self._idle is not None:
            self._idle.cancel()
        workers, snapshot = (self._worker, self._spare), self._snapshot
        self._worker = self._spare = self._snapshot = None
        for worker in workers:
            if worker is not None:
                await worker.end()
        if snapshot is not None:
            await asyncio.to_thread(shutil.rmtree, snapshot.directory, ignore_errors=True)

    async def _run(
        self, text: str, parameters: Sequence[SqlValue], limit: int, head_seq: int
    ) -> SqlRows:
        if self._idle is not None:
            self._idle.cancel()
        try:
            worker, snapshot = await self._ready(head_seq)
            answer = await worker.ask(
                {
                    "sql": text,
                    "parameters": list(parameters),
                    "limit": limit,
                    "bytes": self._limits.answer_bytes,
                },
                limit_s=self._limits.wall_s,
                limit_bytes=self._limits.answer_bytes * _OVERHEAD,
            )
        except BaseException:
            # After a breach, or a caller that went away, its next answer would be the wrong one.
            await self.close()
            raise
        if self._spare is None:
            self._spare = await _Worker.start()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.idle_s, self._end_idle)
        if "error" in answer:
            raise await self._refused(str(answer.get("message", "")), text)
        return _rows(answer, snapshot.seq)

    async def _ready(self, head_seq: int) -> "tuple[_Worker, Snapshot]":
        if self._worker and self._snapshot and self._snapshot.seq >= head_seq:
            return self._worker, self._snapshot
        fresh, self._spare = self._spare or await _Worker.start(), None
        old, self._worker = self._worker, fresh
        old_snapshot, self._snapshot = self._snapshot, None
        self._snapshot = await self._take()
        if old is not None:
            await old.end()
        if old_snapshot is not None:
            await asyncio.to_thread(shutil.rmtree, old_snapshot.directory, ignore_errors=True)
        opened = await fresh.ask(
            {"open": str(self._snapshot.directory), "part": self._part},
            limit_s=self._limits.start_s,
            limit_bytes=self._limits.answer_bytes,
        )
        if "error" in opened:
            raise await self._refused(str(opened.get("message", "")))
        return fresh, self._snapshot

    async def _refused(self, message: str, text: str = "") -> QueryRefused:
        said, meant = misnamed(message, text, await self._columns())
        return QueryRefused(one_line(said, 500), hint=meant or None)

    async def finish(self) -> None:
        """Close it when the queries that wait have had their answers."""
        await self._close_in_turn()

    def _end_idle(self) -> None:
        task = asyncio.get_running_loop().create_task(self._close_in_turn())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _close_in_turn(self) -> None:
        async with self._turn:
            await self.close()


class _Worker:
    """One process of `query_worker.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> "_Worker":
        return cls(await spawn(str(_WORKER)))

    async def ask(
        self, message: dict[str, object], *, limit_s: float, limit_bytes: int
    ) -> dict[str, Any]:
        body = json.dumps(message).encode()
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise QueryRefused("the query process has no pipes")
        try:
            async with asyncio.timeout(limit_s):
                stdin.write(_HEADER.pack(len(body)) + body)
                await stdin.drain()
                length = _HEADER.unpack(await stdout.readexactly(_HEADER.size))[0]
                if length > limit_bytes:
                    raise QueryRefused(f"the answer is longer than {limit_bytes} bytes")
                return cast("dict[str, Any]", json.loads(await stdout.readexactly(length)))
        except TimeoutError as error:
            raise QueryRefused(f"the query took more than {limit_s:g} s and was ended") from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise QueryRefused(await self._why_gone()) from error

    async def end(self) -> None:
        """Kill the process and what it may have started, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        # The pipes' transports close only when the loop next looks at them.
        if self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.wait_closed()

    async def _why_gone(self) -> str:
        status = await self._process.wait()
        if status == -signal.SIGXCPU:
            return "the query used too much processor time and was ended"
        return f"the query used too much memory, or broke its process (status {status})"


def _rows(answer: dict[str, Any], head_seq: int) -> SqlRows:
    return SqlRows(
        columns=tuple(map(str, answer["columns"])),
        types=tuple(map(str, answer["types"])),
        rows=cast("list[list[object]]", answer["rows"]),
        truncated=bool(answer["truncated"]),
        elapsed_ms=float(answer["elapsed_ms"]),
        head_seq=head_seq,
    )
