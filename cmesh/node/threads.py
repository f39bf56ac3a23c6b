"""Native calls in threads: each awaited, and what nobody waits for any more is discarded."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cmesh.errors import NodeClosed
from cmesh.node import ffi

__all__ = ["Threads", "outcome", "retrieve"]

T = TypeVar("T")


# Short calls answer in a millisecond; calls that wait must not keep them waiting.
_SHORT_THREADS = 4
_WAITING_THREADS = 32


class Threads:
    """The threads of one node.

    Attributes:
        closing: set when the node closes; nothing is begun from then on.
    """

    def __init__(self) -> None:
        self.short = ThreadPoolExecutor(_SHORT_THREADS, "cmesh-node")
        self.waiting = ThreadPoolExecutor(_WAITING_THREADS, "cmesh-node-wait")
        self.closing = False

    def shutdown(self) -> None:
        """Wait for every call; blocks."""
        self.short.shutdown(wait=True)
        self.waiting.shutdown(wait=True)

    def submit(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> Future[T]:
        """Begin a call in a thread of `pool`; raises `NodeClosed` once it is closing."""
        if self.closing:
            raise NodeClosed("the node is closed")
        return pool.submit(call)

    async def run(self, pool: ThreadPoolExecutor, call: Callable[..., T], *args: object) -> T:
        """Await a call in a thread of `pool`."""
        return await outcome(self.submit(pool, lambda: call(*args)))

    async def cancellable(
        self, call: Callable[[ffi.Operation], T], discard: Callable[[T], object]
    ) -> T:
        """Run a call that ends early when its caller is cancelled; nothing it made leaks."""
        op = ffi.Operation()
        future = self.submit(self.waiting, lambda: call(op))
        try:
            return await outcome(future, discard)
        except asyncio.CancelledError:
            op.cancel()
            raise
        finally:
            future.add_done_callback(lambda _done: op.close())


async def outcome(future: Future[T], discard: Callable[[T], object] = id) -> T:
    """Await a thread's result; when nobody waits any more, `discard` gets what it made."""
    wrapped = asyncio.wrap_future(future)
    wrapped.add_done_callback(retrieve)
    try:
        return await asyncio.shield(wrapped)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: _discard(done, discard))
        raise


def _discard(done: Future[T], discard: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        discard(done.result())


def retrieve(abandoned: asyncio.Future[T]) -> None:
    """Mark the failure of a call that nobody awaits any more as seen."""
    if not abandoned.cancelled():
        abandoned.exception()
