"""What a daemon does beside what it is asked for: begun anywhere, ended with the daemon."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine

from cmesh.errors import CmeshError

__all__ = ["Background", "guarded"]

logger = logging.getLogger(__name__)


class Background:
    """Work that nobody waits for.

    Attributes:
        closing: nothing is begun any more.
    """

    def __init__(self) -> None:
        self.closing = False
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what runs, and begin nothing."""
        self.closing = True
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Begin `work`; its failure is logged."""
        if self.closing:
            work.close()
            return
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("background_failed", exc_info=task.exception())


async def guarded(work: Awaitable[object]) -> None:
    """Do `work`; a failure of ours is logged and the next one comes."""
    try:
        await work
    except CmeshError as error:
        data = {"code": error.code, "why": error.message}
        logger.warning("tick_failed", extra={"data": data})
