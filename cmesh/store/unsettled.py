"""Requests that wait for the disk, and how long they do."""

import asyncio
from collections import deque

from cmesh.errors import StoreError
from cmesh.store.writer import Request

__all__ = ["COMMIT_LIMIT_S", "Unsettled"]

COMMIT_LIMIT_S = 30.0
"""How long records wait for the disk to begin with them; then they are taken back."""


class Unsettled:
    """The requests in the order they came, with one timer for all. Event loop only.

    A timer and a waiter for each would cost as much as all else the loop does for a commit.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, Request]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Request) -> None:
        """Fail a request when `COMMIT_LIMIT_S` has passed and the disk has not begun with it."""
        due = self._loop.time() + COMMIT_LIMIT_S
        self._waiting.append((due, request))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def drop_settled(self) -> None:
        """Forget what has its outcome; no timer is left when that is all there is."""
        waiting = self._waiting
        while waiting and waiting[0][1].future.done():
            waiting.popleft()
        if not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now, waiting = self._loop.time(), self._waiting
        while waiting and (waiting[0][0] <= now or waiting[0][1].future.done()):
            request = waiting.popleft()[1]
            # What the disk has begun with may be durable: it is waited for without a limit.
            if not request.future.done() and request.take():
                request.fail(StoreError(f"the disk has not answered for {COMMIT_LIMIT_S:g} s"))
        self._timer = self._loop.call_at(waiting[0][0], self._look) if waiting else None
