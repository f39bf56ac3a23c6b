"""SQL of users: on a copy, in a process that can do nothing else, ended when it takes too long.

The store itself never sees a user's SQL. An answer covers every row committed before the
question was asked.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cmesh.errors import QueryRefused
from cmesh.store.confined import LESS, QUERY, Confined, Confinement, QueryLimits, refused_untold
from cmesh.store.misnamed import Columns, misnamed
from cmesh.store.records import SqlRows
from cmesh.store.snapshot import Snapshot
from cmesh.text import one_line

__all__ = ["Copying", "Parameters", "Query", "QueryLimits", "QueryProcess", "SqlValue"]

SqlValue = str | int | float | bool | None
Parameters = Sequence[SqlValue] | Mapping[str, SqlValue]
"""Bound in order to `?` or `$1`, or by name to `$name`; the engine takes no mixture."""

SQL_BYTES = 64 * 1024
_OVERHEAD = 2  # JSON as sent may be this much longer than the rows' own


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One SELECT, with what is bound to its parameters and the most rows wanted."""

    text: str
    parameters: Parameters = ()
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """What a `QueryProcess` gets its copies from.

    Attributes:
        confinement: where each process is made.
        fill: puts a copy into an empty one.
        rest: gives up the disk that only the next copy would need.
        columns: of the views, for errors that help.
        alone: a copy shares its file with the next one, so what reads it must end before that.
    """

    confinement: Confinement
    fill: Callable[[Path], Awaitable[Snapshot]]
    rest: Callable[[], Awaitable[None]]
    columns: Callable[[], Awaitable[Columns]]
    alone: bool = False


class QueryProcess:
    """At most one query at a time, in a process kept warm; another waits, started, unused."""

    def __init__(self, copying: Copying, limits: QueryLimits | None = None) -> None:
        self._copying = copying
        self._limits = limits or QueryLimits()
        self._turn = asyncio.Lock()
        # One thread for as long as this is open: a process in a sandbox dies with its thread.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="query")
        self._worker: Confined | None = None
        self._spare: asyncio.Task[Confined] | None = None
        self._closed = False
        self._seq = -1  # of the worker's copy
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self, query: Query, head_seq: int) -> SqlRows:
        """Run one SELECT on a copy that holds row `head_seq`.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
            StoreError: no copy could be made.
        """
        if len(query.text.encode("utf-8", "replace")) > SQL_BYTES:
            raise QueryRefused(f"the query is longer than its limit of {SQL_BYTES} bytes")
        try:
            async with asyncio.timeout(self._limits.queue_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise QueryRefused("other queries are still running", hint="try again") from error
        try:
            return await self._run(query, head_seq)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """End the processes, delete the copies, take no more queries."""
        self._closed = True
        await self._end()
        self._threads.shutdown(wait=False)

    async def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        worker, self._worker = self._worker, None
        if worker is not None:
            self._leave(worker.end())
        spare, self._spare = self._spare, None
        if spare is not None:
            self._leave(_end_started(spare))
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _leave(self, end: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """End a process in a task of its own: who waits for it may be cancelled, it may not."""
        task = asyncio.ensure_future(end)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def forget(self) -> None:
        """End the processes and delete their copies, once the query that runs is over."""
        await self._rest()

    async def _run(self, query: Query, head_seq: int) -> SqlRows:
        if self._idle is not None:
            self._idle.cancel()
        try:
            worker = await self._ready(head_seq)
            answer = await worker.ask(
                {
                    "sql": query.text,
                    "parameters": _bound(query.parameters),
                    "limit": query.limit,
                    "bytes": self._limits.answer_bytes,
                },
                limit_s=self._limits.wall_s,
                limit_bytes=self._limits.answer_bytes * _OVERHEAD,
            )
            if answer.get("limit"):
                # What is left of a process that ran into its limits serves nobody else.
                raise QueryRefused(self._limits.reached(answer["limit"]), hint=LESS)
        except BaseException:
            # After a breach, or a caller that went away, its next answer would be the wrong one.
            await self._end()
            raise
        self._prepare()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.idle_s, self._end_idle)
        if "error" in answer:
            raise await self._refused(str(answer.get("message", "")), query.text)
        return _rows(answer, self._seq, worker.held_by)

    async def _ready(self, head_seq: int) -> Confined:
        if self._worker and self._seq >= head_seq:
            return self._worker
        fresh = await asyncio.shield(self._prepare())
        if self._closed:
            raise QueryRefused("the store is closed")
        old, self._worker, self._spare = self._worker, fresh, None
        if old is not None:
            ending = self._leave(old.end())
            if self._copying.alone:
                await asyncio.wait([ending])
        self._seq = (await self._copying.fill(fresh.directory)).seq
        opened = await fresh.ask(
            {"open": fresh.seen_at},
            limit_s=self._limits.start_s,
            limit_bytes=self._limits.answer_bytes,
        )
        if "error" in opened:
            raise refused_untold("the copy to ask could not be opened", opened.get("message"))
        return fresh

    def _prepare(self) -> "asyncio.Task[Confined]":
        """Return the process that waits, or is being started, to be the next one."""
        if self._spare is None:
            # A task of its own: a start that was cancelled half way would be a process of nobody.
            self._spare = asyncio.ensure_future(self._begin())
            self._spare.add_done_callback(_retrieve)
        return self._spare

    async def _begin(self) -> Confined:
        if self._closed:
            raise QueryRefused("the store is closed")
        return await self._copying.confinement.begin(QUERY, self._limits, self._threads)

    async def _refused(self, message: str, text: str) -> QueryRefused:
        said, meant = misnamed(message, text, await self._copying.columns())
        return QueryRefused(one_line(said, 500), hint=meant or None)

    async def finish(self) -> None:
        """Close it when the queries that wait have had their answers."""
        async with self._turn:
            await self.close()

    def _end_idle(self) -> None:
        task = asyncio.get_running_loop().create_task(self._rest())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _rest(self) -> None:
        async with self._turn:
            await self._end()
            await self._copying.rest()


async def _end_started(spare: "asyncio.Task[Confined]") -> None:
    with contextlib.suppress(QueryRefused):
        await (await asyncio.shield(spare)).end()


def _retrieve(task: "asyncio.Task[Confined]") -> None:
    """Look at a failure that nobody may wait for any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()


def _bound(parameters: Parameters) -> "list[SqlValue] | dict[str, SqlValue]":
    return dict(parameters) if isinstance(parameters, Mapping) else list(parameters)


def _rows(answer: dict[str, Any], head_seq: int, held_by: str) -> SqlRows:
    return SqlRows(
        columns=tuple(map(str, answer["columns"])),
        types=tuple(map(str, answer["types"])),
        rows=cast("list[list[object]]", answer["rows"]),
        cut_by=str(answer["cut_by"]),
        elapsed_ms=float(answer["elapsed_ms"]),
        head_seq=head_seq,
        held_by=held_by,
    )
