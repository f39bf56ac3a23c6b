"""One task's events, one after another, in batches: decide, commit once, then act.

Two parts of the daemon never change the same task at the same time, because
each task's changes go through its actor. Nothing is decided here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from cmesh.errors import CmeshError

__all__ = ["Actor", "News"]

logger = logging.getLogger(__name__)

E = TypeVar("E")
K = TypeVar("K")


class Actor(Generic[E]):
    """Feeds events to `handle`, as many at once as have come meanwhile.

    `handle` is never called again before it has returned. It returns the events it
    refused, by their place in the batch; one bad event spoils no other. When it
    raises, all tellers of that batch get the error; the actor goes on.
    """

    def __init__(
        self, name: str, handle: Callable[[list[E]], Awaitable[Mapping[int, CmeshError]]]
    ) -> None:
        self._name = name
        self._handle = handle
        self._inbox: list[tuple[E, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    def tell(self, event: E) -> asyncio.Future[None]:
        """Queue an event; the future is done when its batch has been committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        self._inbox.append((event, done))
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())
        return done

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing is being handled."""
        return self._running is None

    async def settle(self) -> None:
        """Wait until everything queued so far has been handled."""
        while self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        try:
            while self._inbox:
                batch, self._inbox = self._inbox, []
                await self._one(batch)
        finally:
            self._running = None

    async def _one(self, batch: list[tuple[E, asyncio.Future[None]]]) -> None:
        failure: Exception | None = None
        refused: Mapping[int, CmeshError] = {}
        try:
            refused = await self._handle([event for event, _ in batch])
        except CmeshError as error:
            logger.warning(
                "task_step_failed",
                extra={"data": {"task": self._name, "code": error.code, "why": error.message}},
            )
            failure = error
        except Exception as error:  # the edge of one task: it must not end the others
            logger.exception("task_step_failed", extra={"data": {"task": self._name}})
            failure = error
        for place, (_, done) in enumerate(batch):
            why = failure or refused.get(place)
            if done.done():
                continue
            if why is None:
                done.set_result(None)
            else:
                done.set_exception(why)


class News(Generic[K]):
    """Tells waiters that something about a key has changed."""

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        """Make it; `told` is called at each change of any key."""
        self._told = told
        self._waiting: dict[K, set[asyncio.Future[None]]] = {}

    def tell(self, key: K) -> None:
        """Wake everybody who waits for `key`."""
        self._told()
        for future in self._waiting.pop(key, set()):
            if not future.done():
                future.set_result(None)

    def next(self, key: K) -> asyncio.Future[None]:
        """Return a future for the next change; take it before looking, or a change is missed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)
        future.add_done_callback(lambda done: self._forget(key, done))
        return future

    def _forget(self, key: K, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[key]


def _seen(future: asyncio.Future[None]) -> None:
    """Mark a failure that nobody awaits as seen; it was logged."""
    if not future.cancelled():
        future.exception()
