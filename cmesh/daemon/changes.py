"""That something which people are shown has changed: a mark that moves, and waiting until it does.

What has changed is not said: who shows it looks again. A look that begins after a mark was given
misses nothing, since what changes meanwhile moves the mark, and the next wait returns at once.
"""

import asyncio
import contextlib
import secrets

from pydantic import Field

from cmesh.daemon.actor import News
from cmesh.daemon.answers import View
from cmesh.daemon.arguments import WAIT_S, Arguments

__all__ = ["Changes", "ChangesArguments", "ChangesView"]


class ChangesArguments(Arguments):
    """Arguments of `changes`; `since`: the mark of the answer before, empty for none."""

    since: str = Field(default="", max_length=64)
    wait_s: float = Field(default=0, ge=0, le=WAIT_S)


class ChangesView(View):
    """`mark` is another one after each change; those of another life of the daemon are others."""

    mark: str


class Changes:
    """Counts the changes of tasks, links, trust, the node and the setup since the daemon began."""

    def __init__(self) -> None:
        self._life = secrets.token_hex(4)
        self._told = 0
        self._news: News[None] = News()

    @property
    def mark(self) -> str:
        """Return what stands for everything that was told so far."""
        return f"{self._life}-{self._told}"

    def tell(self) -> None:
        """Say that something has changed; of the loop's thread."""
        self._told += 1
        self._news.tell(None)

    async def after(self, since: str, wait_s: float) -> str:
        """Return the mark once it is not `since`, or as it is after `wait_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.mark == since:
                    await self._news.next(None)
        return self.mark
