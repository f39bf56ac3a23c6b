"""Work that messages ask for: one after another for a task, side by side for different ones.

The edge at which a message's failure stops: a peer that broke the protocol
loses its link, anything else is logged and the link goes on. What a peer asked
before it was turned away is not begun; a new link says it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cmesh.errors import CmeshError, RemoteProtocolError
from cmesh.link.link import Link

__all__ = ["Turns"]

logger = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


class Turns:
    """Runs work by key."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Task[None]] = {}

    def add(self, key: str, link: Link, work: Work) -> None:
        """Run `work` after everything that was added for `key` before."""
        before = self._last.get(key)
        task = asyncio.create_task(self._one(key, link, work, before))
        self._last[key] = task
        link.hold(task)
        task.add_done_callback(lambda done: self._forget(key, done))

    async def close(self) -> None:
        """Wait until everything added has ended."""
        while self._last:
            await asyncio.wait(set(self._last.values()))

    async def _one(
        self, key: str, link: Link, work: Work, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        if link.turned_away:
            return
        peer = link.identity.name
        try:
            await work()
        except RemoteProtocolError as error:
            data = {"peer": peer, "code": error.code, "about": key, "why": error.message}
            logger.warning("peer_broke_protocol", extra={"data": data})
            await link.refuse(error)
        except CmeshError as error:
            data = {"peer": peer, "code": error.code, "about": key, "why": error.message}
            logger.warning("message_failed", extra={"data": data})
        except Exception:  # the edge of one message: it must not end the others
            logger.exception("message_failed", extra={"data": {"peer": peer, "about": key}})

    def _forget(self, key: str, done: asyncio.Task[None]) -> None:
        if self._last.get(key) is done:
            del self._last[key]
