"""The daemon's side of the database process: started when needed, ended when idle.

The one place that knows whether the process runs and how far the database has got.
Everything belongs to the event loop and nothing blocks it. Nothing here, nor anything it
imports, loads DuckDB.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from cmesh import __version__
from cmesh.errors import StoreError
from cmesh.store.child import Child, Gone
from cmesh.store.compacting import Leash, rewrite
from cmesh.store.exchange import Answer, Ask, Opened, Opening, Reader
from cmesh.store.head import Head
from cmesh.store.journal import Journal
from cmesh.store.room import Room

__all__ = ["DatabaseProcess", "ProcessOptions"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

LINGER_S = 1.0
"""How long rows nobody asks for may gather: DuckDB plans per group, not per row."""

IDLE_S = 10.0
"""The process ends when it had nothing to do for so long."""

OPEN_LIMIT_S = 600.0  # a migration rewrites tables, and copies the file before
ASK_LIMIT_S = 60.0
RETRY_S = 1.0
RETRY_MOST_S = 30.0
SEGMENTS = 3  # with more, a checkpoint frees the older ones
ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """What the process works on; see `LINGER_S` and `IDLE_S` for the times."""

    directory: Path
    node: str
    journal: Journal
    linger_s: float = LINGER_S
    idle_s: float = IDLE_S


class DatabaseProcess:
    """At most one process, and at most one thing asked of it at a time."""

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._incarnation = ""
        self._head = Head()
        self._applied = 0
        # INVARIANT: true only while no process runs and the last one closed the file itself,
        # with every row up to `_applied` in its main part.
        self._at_rest = False
        self._applying: asyncio.TimerHandle | None = None
        self._idling: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_S
        self._closing = False
        self._holders = 0
        self._checkpoints = 0  # of the processes before this one, and whatever those left open
        self._of_child = 0
        self._leash: Leash | None = None  # of a rewriting that goes on
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def pid(self) -> int | None:
        """The process's id while one runs."""
        return None if self._child is None else self._child.pid

    @property
    def checkpoints(self) -> int:
        """Another number than before when the main file may have been changed meanwhile."""
        return self._checkpoints + self._of_child

    @contextlib.contextmanager
    def held_back(self) -> Generator[None]:
        """Have the main file left as it is meanwhile, as far as can be; rows come in all the same.

        What was begun before, and `close`, may change it: compare `checkpoints`.
        """
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1

    async def open(self, acknowledged: Head | None, incarnation: str) -> Opened:
        """Start the first process; bring in what the journal holds, whatever that is.

        Raises:
            StoreError: one of the errors of `Store.open`.
        """

        async def start() -> Opened:
            try:
                opened = await self._start(acknowledged, None, incarnation)
            except Gone as gone:
                await self._end()
                raise gone.problem from gone
            self._incarnation, self._head = opened.incarnation, opened.head
            self._rest_later()
            return opened

        return await self._alone(start)

    def committed(self, head: Head) -> None:
        """Take note that the journal durably holds the rows up to `head`."""
        self._head = head
        if self._applying is None and not self._closing:
            self._apply_in(self._options.linger_s)

    async def read(self, read: Callable[[Reader], T]) -> T:
        """Return what `read` returns in the process; it sees all that was committed before.

        Raises:
            StoreError: the database fails (`DiskFull` where that is why), or takes too long.
        """
        return cast("T", (await self._alone(lambda: self._ask("read", read))).value)

    async def hold_still(self, work: Callable[[int], T]) -> T:
        """Run `work` in a thread while nothing changes the file; it gets the last row there.

        Raises:
            StoreError: the database does not take its rows.
        """

        async def run() -> T:
            alive = self._child is not None and self._child.alive
            if self._applied < self._head.seq or not (self._at_rest or alive):
                await self._ask("apply")
            return await asyncio.to_thread(work, self._applied)

        return await self._alone(run)

    async def rewrite(self, room: Room) -> tuple[int, int]:
        """Have the file written anew while no process has it open; return both sizes.

        `close` does not wait for it, but ends it.

        Raises:
            StoreError: as `compacting.rewrite`.
        """

        async def run() -> tuple[int, int]:
            if self._applied < self._head.seq or not self._at_rest:
                await self._end_at_rest()
            leash = self._leash = Leash()
            if self._closing:
                leash.let_go()
            try:
                return await asyncio.to_thread(rewrite, self._options.directory, room, leash)
            finally:
                self._leash = None
                leash.close()
                self._checkpoints += 1

        return await self._alone(run)

    async def settle(self) -> None:
        """Bring in every row, and drop all of the journal but the segment in use.

        Raises:
            StoreError: the database does not take its rows; the journal is whole.
        """

        async def run() -> None:
            await self._ask("checkpoint")
            await asyncio.to_thread(self._options.journal.drop_through, self._applied)

        await self._alone(run)

    async def close(self) -> bool:
        """Bring in every row and end the process; say whether the journal is not needed now."""
        self._closing = True
        for timer in (self._applying, self._idling):
            if timer is not None:
                timer.cancel()
        if self._leash is not None:
            self._leash.let_go()
        return await self._alone(self._finish, closing=True)

    async def _alone(self, work: Callable[[], Awaitable[T]], *, closing: bool = False) -> T:
        """Run `work` in its turn, to its end: an answer must never be left for the next asker."""

        async def run() -> T:
            async with self._turn:
                if self._closing and not closing:
                    raise StoreError("the store is closed")
                return await work()

        return await asyncio.shield(self._spawn(run()))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_retrieve)
        return task

    async def _ask(
        self,
        work: Literal["apply", "read", "checkpoint", "end"],
        read: Callable[[Reader], object] | None = None,
    ) -> Answer:
        """Ask once, and once more of a fresh process: nothing that is asked harms when repeated."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._ask_once(work, read)
            except Gone as gone:
                await self._end()
                problem, again = gone.problem, gone.by_itself
            except StoreError as error:
                await self._end()
                # What has a name of its own, as a full disk has, is there the next time too.
                problem, again = error, type(error) is StoreError
            if not left or not again:
                raise problem
            _log.warning("database_process_failed error=%s", problem.message)
        raise AssertionError("unreachable")

    async def _ask_once(
        self,
        work: Literal["apply", "read", "checkpoint", "end"],
        read: Callable[[Reader], object] | None,
    ) -> Answer:
        head = self._head
        if self._child is None:
            await self._start(head, head.seq, self._incarnation)
        child = self._child
        assert child is not None
        ask = Ask(through=head.seq, work=work, read=read, hold=self._holders > 0)
        answer = await child.ask(ask, ASK_LIMIT_S)
        if answer.error is not None:
            raise answer.error
        self._applied, self._of_child = answer.applied, answer.checkpoints
        self._rest_later()
        return answer

    async def _start(
        self, acknowledged: Head | None, through: int | None, incarnation: str
    ) -> Opened:
        self._at_rest = False
        opening = Opening(
            directory=self._options.directory,
            node=self._options.node,
            acknowledged=acknowledged,
            through=through,
            incarnation=incarnation,
            version=__version__,
        )
        self._child = await Child.start()
        answer = await self._child.ask(opening, OPEN_LIMIT_S)
        if answer.error is not None:
            await self._end()
            raise answer.error
        self._applied = answer.applied
        return cast("Opened", answer.value)

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.end()
            self._forget_child(unknown=1)

    def _forget_child(self, unknown: int = 0) -> None:
        self._checkpoints, self._of_child = self.checkpoints + unknown, 0

    def _apply_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._applying = loop.call_later(seconds, lambda: self._spawn(self._apply()))

    async def _apply(self) -> None:
        try:
            await self._alone(self._bring_in)
        except StoreError as error:
            self._warn("apply_failed", error)
            wait_s, self._retry_s = self._retry_s, min(self._retry_s * 2, RETRY_MOST_S)
        else:
            wait_s, self._retry_s = self._options.linger_s, RETRY_S
        self._applying = None
        if self._applied < self._head.seq and not self._closing:
            self._apply_in(wait_s)

    async def _bring_in(self) -> None:
        if self._applied < self._head.seq:
            await self._ask("apply")
        many = len(await asyncio.to_thread(self._options.journal.segments)) > SEGMENTS
        if many and not self._holders:
            await self._ask("checkpoint")
            await asyncio.to_thread(self._options.journal.drop_through, self._applied)

    def _rest_later(self) -> None:
        if self._idling is not None:
            self._idling.cancel()
        if not self._closing:
            loop = asyncio.get_running_loop()
            self._idling = loop.call_later(
                self._options.idle_s, lambda: self._spawn(self._rest(self._idling))
            )

    async def _rest(self, timer: asyncio.TimerHandle | None) -> None:
        async def end() -> None:
            # Not when somebody came first and set a later time.
            if self._child is None or self._idling is not timer:
                return
            if self._holders:
                self._rest_later()
            else:
                await self._end_at_rest()
                await asyncio.to_thread(self._options.journal.drop_through, self._applied)

        try:
            await self._alone(end)
        except StoreError as error:
            # The segments stay, and the next process tries again.
            self._warn("checkpoint_failed", error)

    def _warn(self, what: str, error: StoreError) -> None:
        if not self._closing:
            _log.warning("%s error=%s", what, error.message)

    async def _end_at_rest(self) -> None:
        await self._ask("end")
        if self._idling is not None:
            self._idling.cancel()
        child, self._child = self._child, None
        if child is not None:
            await child.ended()
            self._forget_child()
        self._at_rest = True

    async def _finish(self) -> bool:
        if not self._incarnation:  # it was never opened: leave everything as it is
            await self._end()
            return False
        if self._applied < self._head.seq or not self._at_rest:
            try:
                await self._end_at_rest()
            except StoreError as error:
                _log.warning("close_failed error=%s", error.message)
                await self._end()
        return self._at_rest and self._applied >= self._head.seq


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Look at the outcome of work nobody waits for any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
