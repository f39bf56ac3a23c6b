"""A part of the store that is kept beside it and grows with it: the rows that one peer may see.

Made by a confined process of `part_worker.py` from a copy, once; then only rows after its last
one are added. It is never put right: once a row of the store has changed, it is made anew.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cmesh.errors import QueryRefused
from cmesh.store.confined import MIB, Confined, Program, QueryLimits, refused_untold
from cmesh.store.snapshot import FILE_NAME, Snapshot, copy_files, discard
from cmesh.store.sql import Copying

__all__ = ["LIMITS", "KeptPart"]

LIMITS = QueryLimits(wall_s=60.0, cpu_s=60, answer_bytes=64 * 1024, file_bytes=64 * 1024 * MIB)
"""For one step."""

STEP_ROWS = 1_000_000
"""Rows of the store that one step looks at: a part that takes long is made in steps that stay."""

_PROGRAM = Program(
    file=Path(__file__).with_name("part_worker.py"),
    name="part",
    work="choosing the rows for the query",
)


class KeptPart:
    """The part of one asker, in a directory of its own. Belongs to one event loop.

    INVARIANT: no query's process is given anything but the part; no process that saw the whole
    copy runs a statement of somebody.
    """

    def __init__(
        self,
        directory: Path,
        copying: Copying,
        part: Mapping[str, object],
        limits: QueryLimits = LIMITS,
    ) -> None:
        """Make it; nothing is on the disk before `fill`.

        Args:
            directory: where nothing is yet.
            copying: of the whole store.
            part: which rows and columns of which tables; see `part_worker.py`.
            limits: of the process.
        """
        self._directory = directory
        self._copying = copying
        self._part = part
        self._limits = limits
        self._seq = -1
        # One thread for as long as this is open: a process in a sandbox dies with its thread.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="part")
        self._starting: asyncio.Task[Confined] | None = None
        self._turn = asyncio.Lock()
        self._working: set[asyncio.Task[int]] = set()

    async def fill(self, directory: Path) -> Snapshot:
        """Bring the part up to the store's last row and put it into a directory.

        It shares its file with the next one: the process that reads it must have ended by then.
        Who is cancelled leaves the work to go on: the next one finds it done.

        Raises:
            QueryRefused: it cannot be made, or takes too much.
            StoreError: no copy could be made.
        """
        task = asyncio.ensure_future(self._work(directory))
        self._working.add(task)
        task.add_done_callback(self._done)
        return Snapshot(directory=directory, seq=await asyncio.shield(task))

    async def rest(self) -> None:
        """End the process; what is kept stays."""
        async with self._turn:
            await self._let_go()
        await self._copying.rest()

    async def forget(self) -> None:
        """Delete what is kept: rows of it may have changed."""
        async with self._turn:
            await self._drop()

    async def close(self) -> None:
        """End it all, once what is at work is done."""
        if self._working:
            await asyncio.wait(self._working)
        await self.forget()
        self._threads.shutdown(wait=False)

    def _done(self, task: "asyncio.Task[int]") -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, whoever went away, so that asyncio does not complain

    async def _work(self, directory: Path) -> int:
        async with self._turn:
            try:
                if not await self._extended():
                    await self._drop()
                    await self._extended()
            except BaseException:
                await self._drop()  # whatever it is now, it is not what `_seq` says
                raise
            await asyncio.to_thread(_show, self._directory / FILE_NAME, directory)
            return self._seq

    async def _extended(self) -> bool:
        """Add the rows after the last one; False when rows before it have changed."""
        process = await asyncio.shield(self._prepare())
        await self._copying.fill(process.directory)
        kept, scratch = self._directory / FILE_NAME, process.scratch / FILE_NAME
        if self._seq >= 0:
            kept.replace(scratch)
        top = self._seq + 1
        while self._seq < top:
            message = {
                **self._part,
                "after": self._seq,
                "most": STEP_ROWS,
                "whole": process.seen_at,
                "scratch": str(process.scratch),
            }
            answer = await process.ask(
                message, limit_s=self._limits.wall_s, limit_bytes=self._limits.answer_bytes
            )
            if answer.get("limit"):
                raise QueryRefused(self._limits.reached(answer["limit"]))
            if "error" in answer:
                raise refused_untold("the rows for you could not be chosen", answer.get("message"))
            if answer.get("stale"):
                return False
            self._seq, top = int(answer["seq"]), int(answer["top"])
        await asyncio.to_thread(_empty, process.directory)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        scratch.replace(kept)
        return True

    def _prepare(self) -> "asyncio.Task[Confined]":
        if self._starting is None:
            begin = self._copying.confinement.begin(_PROGRAM, self._limits, self._threads)
            self._starting = asyncio.ensure_future(begin)
        return self._starting

    def _let_go(self) -> asyncio.Future[None]:
        starting, self._starting = self._starting, None
        return self._copying.confinement.let_go(starting)

    async def _drop(self) -> None:
        self._seq = -1
        await self._let_go()
        await asyncio.to_thread(discard, self._directory)


def _show(file: Path, directory: Path) -> None:
    try:
        (directory / FILE_NAME).hardlink_to(file)
    except OSError:  # a file system without links
        copy_files([file], directory)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
