"""The worker's side: what peers ask of this node, one `Inbound` a task.

Takes up what an earlier life left, offers ended tasks, hears the owner, and ends what has
lost its right. What peers ask is `requests`, who has a place `inbounds`.
"""

import asyncio
import contextlib
import logging

from cmesh.daemon import rights
from cmesh.daemon.answers import WillRunView
from cmesh.daemon.approval import will_run
from cmesh.daemon.happening import Happening
from cmesh.daemon.inbounds import Inbounds
from cmesh.daemon.parts import Parts
from cmesh.daemon.requests import Requests
from cmesh.errors import PolicyDenied
from cmesh.link.link import Link
from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.facts import INTENT, STARTED, UNSTARTED
from cmesh.protocol.fields import UNACKNOWLEDGED_MOST
from cmesh.protocol.happenings import (
    Approved,
    Connected,
    Expired,
    GotCancel,
    Refused,
    Restarted,
    StoreRestored,
)
from cmesh.protocol.messages import Message
from cmesh.store.records import TaskSnapshot

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

DRAIN_LIMIT_S = 5.0
"""How long a stopping daemon waits for what it has begun to commit and to answer."""


class Worker:
    """All inbound tasks of this node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._inbounds = Inbounds(parts)
        self._requests = Requests(parts, self._inbounds)
        self._closed = False

    @property
    def running(self) -> int:
        """Tasks that hold a place."""
        return self._inbounds.places.running

    @property
    def waiting(self) -> int:
        """Tasks that wait for a place."""
        return self._inbounds.places.waiting

    async def recover(self) -> None:
        """Take up every unfinished task: adopt what runs, take in what ended meanwhile."""
        for task in await self._parts.store.unfinished():
            if task.record.direction is not Direction.IN:
                continue
            record = task.record
            inbound = self._inbounds.open(record.task_id, record.peer_id)
            if task.state in STARTED:
                self._inbounds.places.adopt(record.task_id, record.peer_id)
                self._parts.networks.adopt(record.task_id)
            elif task.state in UNSTARTED:
                self._inbounds.deadlines.add(record.task_id, record.spec.not_after)
            inbound.tell(Happening(event=Restarted()))
            inbound.look()
        await self._discard_left()
        await self.sweep()

    async def drain(self) -> None:
        """Take no new task from here on; wait until what has begun is committed and answered."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_LIMIT_S):
                await self._requests.drain()

    async def close(self) -> None:
        """Finish what was told; running tasks go on under their shims."""
        self._closed = True
        self._inbounds.stop()
        await self._requests.close()
        await self._inbounds.close()

    def fill(self) -> None:
        """Wake as many of those that wait for a place as there are free ones."""
        self._inbounds.fill()

    def changed(self, task_id: TaskId) -> None:
        """A shim has news of a task."""
        inbound = self._inbounds.tasks.get(task_id)
        if inbound is not None and not self._closed:
            inbound.look()

    async def unacknowledged(self, peer_id: NodeId) -> list[TaskId]:
        """Return the ended tasks whose result a peer has not acknowledged."""
        found: list[TaskId] = []
        for task_id in self._inbounds.of(peer_id):
            task = await self._parts.store.task(task_id)
            if task is not None and task.terminal and task.unfinished:
                found.append(task_id)
        return found[:UNACKNOWLEDGED_MOST]

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        return self._inbounds.owes(peer_id)

    def peers(self) -> set[NodeId]:
        """Return the peers that something is owed to."""
        return self._inbounds.peers()

    def connected(self, link: Link) -> None:
        """A link to a peer opened."""
        peer_id = link.identity.node_id
        self._inbounds.incoming.relinked(peer_id)
        for task_id in self._inbounds.of(peer_id):
            inbound = self._inbounds.tasks[task_id]
            inbound.asked = False
            inbound.tell(Happening(event=Connected(), reply_to=peer_id))

    def disconnected(self, link: Link) -> None:
        """A link ended; its subscriptions end with it."""
        self._requests.disconnected(link)

    def take(self, link: Link, message: Message) -> bool:
        """Take a message; False when it is not the worker's."""
        return self._requests.take(link, message)

    def take_chunk(self, link: Link, chunk: Chunk) -> bool:
        """Take a piece of what a caller sends; False when it is none."""
        return self._requests.take_chunk(link, chunk)

    async def approve(self, task: TaskSnapshot, *, yes: bool, reason: str) -> None:
        """Let a waiting task run, or refuse it: the owner's word.

        Raises:
            LocalProtocolError: it does not wait for approval any more.
        """
        inbound = self._inbounds.open(task.record.task_id, task.record.peer_id)
        event = Approved() if yes else Refused()
        why = reason or "the worker's owner refused it"
        await inbound.tell(
            Happening(event=event)
            if yes
            else Happening(event=event, code=PolicyDenied.code, reason=why)
        )
        inbound.tell(Happening(event=Connected(), reply_to=task.record.peer_id))

    async def will_run(self, task: TaskSnapshot) -> WillRunView:
        """Return what a task that waits for approval would start."""
        inbound = self._inbounds.open(task.record.task_id, task.record.peer_id)
        grant = inbound.grant
        if grant is None:  # an earlier life of the daemon has decided
            admission = await self._inbounds.readmit(task)
            if admission.grant is None:
                return WillRunView(obstacle=admission.record.reason)
            inbound.decided(admission)
            grant = inbound.grant or admission.grant
        return await asyncio.to_thread(will_run, self._parts, task.record, grant)

    async def cancel(self, task: TaskSnapshot, reason: str) -> None:
        """End a task by this machine's owner."""
        inbound = self._inbounds.open(task.record.task_id, task.record.peer_id)
        why = f"the worker's owner ended it: {reason}"
        await inbound.tell(Happening(event=GotCancel("user"), code="cancelled", reason=why))

    async def recheck(self, peer_id: NodeId) -> None:
        """End a peer's unfinished tasks that it has no right to any more."""
        await self._requests.decided(peer_id)
        if not self._inbounds.owes(peer_id):
            return
        caller = await rights.asker(self._parts, peer_id)
        for task_id in self._inbounds.of(peer_id):
            task = await self._parts.store.task(task_id)
            inbound = self._inbounds.tasks.get(task_id)
            if task is None or inbound is None or task.terminal:
                continue
            why = await rights.lost(
                self._parts, task.record, inbound.grant, caller, started=task.state in STARTED
            )
            if why is None:
                continue
            logger.warning("task_revoked", extra={"data": {"task": task.record.task_id}})
            inbound.tell(Happening(event=GotCancel("user"), code=why[0], reason=why[1]))

    async def revoke(self, peer_id: NodeId, code: str, reason: str) -> list[TaskId]:
        """End a peer's tasks because its key is trusted no more; return which.

        Its link has been dropped. What runs by a rule with `on_revoke = "stay"` runs on.
        """
        await self._requests.decided(peer_id)
        ended: list[TaskId] = []
        for task_id in self._inbounds.of(peer_id):
            task = await self._parts.store.task(task_id)
            inbound = self._inbounds.tasks.get(task_id)
            if task is None or inbound is None or task.terminal:
                continue
            if task.state in STARTED and rights.stays(self._parts, task.record, inbound.grant):
                continue
            inbound.tell(Happening(event=GotCancel("user"), code=code, reason=reason))
            ended.append(task_id)
        return ended

    async def restored(self) -> None:
        """End what an earlier life was about to start: the lost rows may say that it has run."""
        for task in await self._parts.store.unfinished():
            record = task.record
            inbound = self._inbounds.tasks.get(record.task_id)
            if inbound is None or task.state != INTENT or inbound.grant is not None:
                continue
            if self._parts.supervisor.look(record.task_id).claim == "none":
                inbound.tell(Happening(event=StoreRestored()))
                inbound.look()

    async def expire(self) -> None:
        """End what was not started in time, by this node's clock."""
        now = self._parts.clock.now()
        for task_id in self._inbounds.deadlines.due(now):
            task = await self._parts.store.task(task_id)
            inbound = self._inbounds.tasks.get(task_id)
            if task and inbound and task.state in UNSTARTED:
                why = "its time to start was over"
                inbound.tell(Happening(event=Expired(), code="expired", reason=why))
                self._inbounds.deadlines.add(task_id, now)  # looked at again, until it is stored
        self._requests.forget()

    async def sweep(self) -> None:
        """Delete conversations that were kept long enough after their last turn."""
        needed = {
            task.record.first for task in await self._parts.store.unfinished() if not task.terminal
        }
        sessions, now = self._parts.sessions, self._parts.clock.now()
        gone = await asyncio.to_thread(sessions.sweep, now, needed.__contains__)
        if gone:
            logger.info("conversations_deleted", extra={"data": {"threads": gone}})

    async def _discard_left(self) -> None:
        """Remove the directories of settled tasks, which a crash has left."""
        tasks_dir = self._parts.tasks_dir
        names = await asyncio.to_thread(lambda: [entry.name for entry in tasks_dir.iterdir()])
        for task_id in map(TaskId, names):
            task = await self._parts.store.task(task_id)
            if task is not None and not task.unfinished:
                self._parts.supervisor.discard(task_id)
