"""What a caller subscribed to, on its way: stored events, then the end, at the link's pace.

Reads committed rows only; nothing is told that a restart could take back.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from cmesh.daemon.heads import signed_head
from cmesh.daemon.parts import Parts
from cmesh.daemon.withheld import withheld
from cmesh.errors import LinkError, SecretFound
from cmesh.link.link import Link
from cmesh.link.tailnet import GOING_AWAY
from cmesh.model import Direction, Result, TaskId
from cmesh.protocol import state as table
from cmesh.protocol.codec import CHUNK_BYTES, encode_chunk
from cmesh.protocol.convert import INLINE_BYTES, event_message, outcome_from
from cmesh.protocol.facts import WorkerFacts
from cmesh.protocol.happenings import Flow
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import (
    Artifact,
    End,
    Gap,
    ResultMessage,
)
from cmesh.protocol.state import Send
from cmesh.store.records import TaskSnapshot

__all__ = ["Feeds"]

logger = logging.getLogger(__name__)

PAGE_EVENTS = 200

AHEAD_BYTES = 4 * CHUNK_BYTES
"""Read in one turn of a thread; on a busy machine each turn is waited for."""


@dataclass(slots=True, eq=False)
class _Feed:
    link: Link
    task_id: TaskId
    cursor: int
    told: bool = False


class Feeds:
    """All subscriptions of all links; one a link and task, a newer one replaces it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._feeds: dict[Link, dict[TaskId, asyncio.Task[None]]] = {}

    def follow(self, link: Link, task_id: TaskId, after_seq: int) -> None:
        """Send what comes after `after_seq`, until the result has been sent."""
        if link.ended:  # the message outlived its link, and nobody would drop the feed
            return
        feeds = self._feeds.setdefault(link, {})
        before = feeds.get(task_id)
        if before is not None:
            before.cancel()
        task = feeds[task_id] = asyncio.create_task(self._run(_Feed(link, task_id, after_seq)))
        task.add_done_callback(lambda done: self._forget(link, task_id, done))

    def drop(self, link: Link) -> None:
        """End a link's subscriptions."""
        for task in self._feeds.pop(link, {}).values():
            task.cancel()

    async def close(self) -> None:
        """End all."""
        tasks = [task for feeds in self._feeds.values() for task in feeds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def artifact(self, link: Link, message: Artifact) -> None:
        """Send a kept output, or a patch or file not withheld or released, from an offset.

        Raises:
            LinkError: the link ended.
        """
        task = await self._parts.store.task(TaskId(message.task_id))
        peer_id = link.identity.node_id
        of_peer = task if task and task.record.peer_id == peer_id else None
        total = _given(of_peer, message.sha256) if of_peer else None
        if total is None and of_peer is not None and of_peer.record.direction is Direction.IN:
            held = next((one for one in withheld(of_peer) if one.sha256 == message.sha256), None)
            if held is not None and not held.released_at:
                reason = "a secret was found in it, and this machine's owner has not released it"
                link.post(Failure(code=SecretFound.code, reason=reason, about=message.task_id))
                return
            total = held.bytes if held else None
        if total is None or self._parts.store.blob_path(message.sha256) is None:
            reason = "no such output of yours is kept here"
            link.post(Failure(code="task_not_found", reason=reason, about=message.task_id))
            return
        offset = message.offset
        while True:
            ahead = await self._parts.store.read_blob(message.sha256, offset, AHEAD_BYTES)
            for at in range(0, max(1, len(ahead)), CHUNK_BYTES):
                data = ahead[at : at + CHUNK_BYTES]
                final = offset + len(data) >= total or not data
                chunk = encode_chunk(
                    TaskId(message.task_id), message.sha256, offset, data, final=final
                )
                await link.send(chunk)
                if final:
                    return
                offset += len(data)

    async def _run(self, feed: _Feed) -> None:
        try:
            while not feed.told:
                changed = self._parts.news.next(feed.task_id)
                try:
                    if not await self._step(feed):
                        await changed
                finally:
                    changed.cancel()
        except LinkError:
            return  # the next connect subscribes again
        except Exception as error:  # the edge of one feed: silence would look like waiting
            data = {"task": feed.task_id, "why": str(error)}
            logger.exception("feed_failed", extra={"data": data})
            # Nobody subscribes twice on a link, so the peer must make a new one.
            await feed.link.close(GOING_AWAY, "feed_failed")

    async def _step(self, feed: _Feed) -> bool:
        """Send what is there; False when the feed has to wait."""
        task = await self._parts.store.task(feed.task_id)
        if task is None:
            return False
        facts = WorkerFacts(
            state=task.state, last_seq=task.last_event, cursor=feed.cursor, told=feed.told
        )
        step = table.worker(Flow(), facts)
        if Send.EVENT in step.sends:
            await self._events(feed, task)
            return True
        if Send.RESULT in step.sends:
            await self._result(feed, task)
            return True
        return False

    async def _events(self, feed: _Feed, task: TaskSnapshot) -> None:
        page = await self._parts.store.events(
            task.record.task_id, after=feed.cursor, limit=PAGE_EVENTS
        )
        first = page[0].seq if page else task.last_event + 1
        if first > feed.cursor + 1:  # events that are no longer kept
            feed.cursor = first - 1
            await feed.link.send(Gap(task_id=feed.task_id, through_seq=feed.cursor))
        for event in page:
            await feed.link.send(event_message(feed.task_id, event))
            feed.cursor = event.seq

    async def _result(self, feed: _Feed, task: TaskSnapshot) -> None:
        assert task.result is not None
        inline, result = b"", task.result
        if result.output_sha256 and result.output_kept <= INLINE_BYTES:
            inline = await self._parts.store.read_blob(result.output_sha256, 0, INLINE_BYTES)
        feed.link.post(End(task_id=feed.task_id, last_seq=feed.cursor))
        await feed.link.send(
            ResultMessage(
                task_id=feed.task_id,
                last_seq=feed.cursor,
                outcome=outcome_from(result, inline),
                signature=task.worker_signature,
            )
        )
        feed.told = True
        parts = self._parts
        feed.link.post(signed_head(parts.store, parts.key, parts.self_id()))

    def _forget(self, link: Link, task_id: TaskId, done: asyncio.Task[None]) -> None:
        feeds = self._feeds.get(link, {})
        if feeds.get(task_id) is done:
            del feeds[task_id]
            if not feeds:
                del self._feeds[link]
        with contextlib.suppress(asyncio.CancelledError):
            done.exception()


def _given(task: TaskSnapshot, sha256: str) -> int | None:
    """Return the length of what the peer of a task may fetch under this hash; None = nothing."""
    if task.record.direction is Direction.OUT:
        # What this node fetched from a worker of its own is not kept for anybody else.
        changes = task.record.spec.changes
        sent = changes is not None and changes.sha256 == sha256 and not task.terminal
        return changes.bytes if changes and sent else None
    return _size(task.result, sha256) if task.result else None


def _size(result: Result, sha256: str) -> int | None:
    """Return the length of what a result gives out under this hash; None = nothing."""
    if result.output_sha256 == sha256:
        return result.output_kept
    outcome = outcome_from(result)
    patch = outcome.patch
    if patch is not None and patch.sha256 == sha256 and not patch.withheld:
        return patch.bytes
    for one in outcome.artifacts.files if outcome.artifacts else ():
        if one.sha256 == sha256 and not one.withheld:
            return one.bytes
    return None
