"""The worker's side: what peers ask of this node, one `Inbound` a task.

Routes messages, holds the places to run, offers ended tasks, and ends what has
lost its right.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from itertools import islice

from cmesh.daemon import rights
from cmesh.daemon.admission import Admission, Count, admit, principal
from cmesh.daemon.feed import Feeds
from cmesh.daemon.inbound import Happening, Inbound, Place
from cmesh.daemon.parts import Parts
from cmesh.daemon.turns import Turns
from cmesh.errors import (
    CmeshError,
    IdentityUnknown,
    PolicyDenied,
    QueueFull,
    RemoteProtocolError,
    StoreError,
    TaskConflict,
    UnknownPeer,
)
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.link.tailnet import GOING_AWAY
from cmesh.model import Direction, Identity, Limits, NodeId, Profile, TaskId, TaskSpec
from cmesh.protocol.convert import outcome_from, spec_from
from cmesh.protocol.facts import (
    STARTED,
    UNSTARTED,
    Approved,
    Connected,
    Expired,
    GotCancel,
    GotResultAck,
    GotSubmit,
    GotWanted,
    Refused,
    Restarted,
)
from cmesh.protocol.messages import (
    Artifact,
    Cancel,
    Denied,
    Failure,
    Message,
    ResultAck,
    Submit,
    Subscribe,
    Wanted,
)
from cmesh.protocol.receipts import result_bytes
from cmesh.store.records import ReceiptRecord, TaskRecord, TaskSnapshot
from cmesh.text import cut

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

DENIED_PROMPT_CHARACTERS = 500
"""What is kept of a prompt that was refused: a peer without rights must not fill the disk."""

UNSETTLED_LIMIT = 1_000
"""Tasks of one peer without its receipt, beyond which nothing new of it is written down."""


class Worker:
    """All inbound tasks of this node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tasks: dict[TaskId, Inbound] = {}
        self._owner: dict[TaskId, NodeId] = {}
        self._running: set[TaskId] = set()
        self._queue: dict[TaskId, None] = {}
        self._place = Place(take=self._take, leave=self._leave, readmit=self._readmit)
        self._feeds = Feeds(parts)
        self._turns = Turns()
        self._closed = False

    @property
    def running(self) -> int:
        """Tasks that hold a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a place."""
        return len(self._queue)

    async def recover(self) -> None:
        """Take up every unfinished task: adopt what runs, take in what ended meanwhile."""
        for task in await self._parts.store.unfinished():
            if task.record.direction is not Direction.IN:
                continue
            inbound = self._inbound(task.record.task_id, task.record.peer_id)
            if task.state in STARTED:
                self._running.add(task.record.task_id)
            inbound.tell(Happening(event=Restarted()))
            inbound.look()
        await self._discard_left()

    async def close(self) -> None:
        """Finish what was told; running tasks go on under their shims."""
        self._closed = True
        await self._turns.close()
        await self._feeds.close()  # after the turns, which begin some
        for inbound in list(self._tasks.values()):
            await inbound.close()

    def fill(self) -> None:
        """Wake as many of those that wait for a place as there are free ones."""
        if self._closed:
            return
        for task_id in list(islice(self._queue, max(0, self._free()))):
            self._tasks[task_id].look()

    def changed(self, task_id: TaskId) -> None:
        """A shim has news of a task."""
        inbound = self._tasks.get(task_id)
        if inbound is not None and not self._closed:
            inbound.look()

    async def unacknowledged(self, peer_id: NodeId) -> list[TaskId]:
        """Return the ended tasks whose result a peer has not acknowledged."""
        return [
            task.record.task_id
            for task in await self._parts.store.unfinished()
            if _is_of(task, peer_id) and task.terminal
        ]

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        return peer_id in self._owner.values()

    def peers(self) -> set[NodeId]:
        """Return the peers that something is owed to."""
        return set(self._owner.values())

    def connected(self, link: Link) -> None:
        """A link to a peer opened."""
        peer_id = link.identity.node_id
        for task_id, inbound in list(self._tasks.items()):
            if self._owner[task_id] == peer_id:
                inbound.asked = False
                inbound.tell(Happening(event=Connected(), reply_to=peer_id))

    def disconnected(self, link: Link) -> None:
        """A link ended; its subscriptions end with it."""
        self._feeds.drop(link)

    def take(self, link: Link, message: Message) -> bool:
        """Take a message; False when it is not the worker's."""
        match message:
            case Submit():
                work = self._submitted(link, message)
            case Cancel():
                work = self._cancelled(link, message)
            case Subscribe():
                work = self._subscribed(link, message)
            case Wanted():
                work = self._wanted(link, TaskId(message.task_id))
            case ResultAck():
                work = self._acknowledged(link, message)
            case Artifact():
                self._turns.add(f"artifact {message.task_id}", link, self._output(link, message))
                return True
            case _:
                return False
        self._turns.add(message.task_id, link, self._stored(link, work))
        return True

    async def approve(self, task: TaskSnapshot, *, yes: bool, reason: str) -> None:
        """Let a waiting task run, or refuse it: the owner's word.

        Raises:
            LocalProtocolError: it does not wait for approval any more.
        """
        inbound = self._inbound(task.record.task_id, task.record.peer_id)
        event = Approved() if yes else Refused()
        why = reason or "the worker's owner refused it"
        await inbound.tell(
            Happening(event=event)
            if yes
            else Happening(event=event, code=PolicyDenied.code, reason=why)
        )
        inbound.tell(Happening(event=Connected(), reply_to=task.record.peer_id))

    async def cancel(self, task: TaskSnapshot, reason: str) -> None:
        """End a task by this machine's owner."""
        inbound = self._inbound(task.record.task_id, task.record.peer_id)
        why = f"the worker's owner ended it: {reason}"
        await inbound.tell(Happening(event=GotCancel("user"), code="cancelled", reason=why))

    async def recheck(self, peer_id: NodeId) -> None:
        """End a peer's unfinished tasks that it has no right to any more."""
        for task in await self._parts.store.unfinished():
            if not _is_of(task, peer_id) or task.terminal:
                continue
            inbound = self._inbound(task.record.task_id, peer_id)
            why = await rights.lost(self._parts, task.record, inbound.grant)
            if why is None:
                continue
            logger.warning("task_revoked", extra={"data": {"task": task.record.task_id}})
            inbound.tell(Happening(event=GotCancel("user"), code=why[0], reason=why[1]))

    async def expire(self) -> None:
        """End what was not started in time, by this node's clock."""
        now = self._parts.clock.now()
        for task_id, inbound in list(self._tasks.items()):
            task = await self._parts.store.task(task_id)
            if task and task.state in UNSTARTED and task.record.spec.not_after <= now:
                why = "its time to start was over"
                inbound.tell(Happening(event=Expired(), code="expired", reason=why))

    async def _stored(self, link: Link, work: Coroutine[None, None, None]) -> None:
        """Do `work`; what could not be stored is said again by the peer on a new link."""
        try:
            await work
        except StoreError as error:
            await link.close(GOING_AWAY, error.code)
            raise

    async def _submitted(self, link: Link, message: Submit) -> None:
        spec, peer = spec_from(message), link.identity
        known = await self._parts.store.task(spec.task_id)
        if known is not None:
            await self._known(link, known, message)
            return
        if self._unsettled(link, spec.task_id):
            return
        count = self._count(spec.task_id, peer.node_id)
        admission = await admit(self._parts, peer, spec, count)
        if admission.effect != "deny" and spec.not_after <= self._parts.clock.now():
            why = "its time to start was over when it came"
            admission = replace(admission, effect="deny", grant=None, code="expired", reason=why)
        happening = Happening(
            event=GotSubmit(admission.effect),
            record=_submitted_record(spec, peer, admission),
            admission=admission,
            code=admission.code,
            reason=admission.reason,
            reply_to=peer.node_id,
        )
        try:
            await self._inbound(spec.task_id, peer.node_id).tell(happening)
        except CmeshError as error:  # nothing was committed, so nothing is accepted
            self._drop(spec.task_id)
            reason = error.message[:2_000]
            link.post(Failure(code=error.code, reason=reason, about=spec.task_id))

    async def _known(self, link: Link, known: TaskSnapshot, message: Submit) -> None:
        record, peer = known.record, link.identity
        if not _is_of(known, peer.node_id):  # nothing of another's task is told
            reason = "this task id is in use"
            link.post(Denied(task_id=record.task_id, code=TaskConflict.code, reason=reason))
            return
        happening = Happening(
            event=GotSubmit("allow"),
            same_hash=record.payload_hash == message.payload_hash,
            code=known.code,
            reason=known.reason,
            reply_to=peer.node_id,
        )
        await self._inbound(record.task_id, record.peer_id).tell(happening)
        await self._tidy(record.task_id)

    async def _cancelled(self, link: Link, message: Cancel) -> None:
        task_id, peer = TaskId(message.task_id), link.identity
        known = await self._parts.store.task(task_id)
        if known is not None and not _is_of(known, peer.node_id):
            _unknown(link, task_id)
            return
        if known is None and self._unsettled(link, task_id):
            return
        user = message.reason == "user"
        happening = Happening(
            event=GotCancel(message.reason),
            record=_tombstone(message, peer, self._parts),
            code="" if user else "expired",
            reason="the caller cancelled it" if user else "its time to start was over",
            reply_to=peer.node_id,
        )
        try:
            await self._inbound(task_id, peer.node_id).tell(happening)
        finally:
            await self._tidy(task_id)

    async def _subscribed(self, link: Link, message: Subscribe) -> None:
        task_id = TaskId(message.task_id)
        known = await self._parts.store.task(task_id)
        if known is None or not _is_of(known, link.identity.node_id):
            _unknown(link, task_id)
        elif message.after_seq > known.last_event:
            raise RemoteProtocolError("the peer subscribed after an event that is not there yet")
        else:
            self._feeds.follow(link, task_id, message.after_seq)

    async def _wanted(self, link: Link, task_id: TaskId) -> None:
        if self._owner.get(task_id) != link.identity.node_id:
            _unknown(link, task_id)
            return
        await self._tasks[task_id].tell(Happening(event=GotWanted()))

    async def _acknowledged(self, link: Link, message: ResultAck) -> None:
        task_id, peer = TaskId(message.task_id), link.identity
        task = await self._parts.store.task(task_id)
        if task is None or task.result is None or not _is_of(task, peer.node_id):
            _unknown(link, task_id)
            return
        signed = result_bytes(
            task_id,
            task.record.payload_hash,
            self._parts.self_id(),
            peer.node_id,
            outcome_from(task.result),
            task.last_event,
        )
        if not verify(link.opened.key, signed, message.signature):
            raise RemoteProtocolError(f"the receipt of task `{task_id}` is not the peer's")
        receipt = ReceiptRecord(
            peer_id=peer.node_id,
            peer=peer.name,
            kind="result_ack",
            task_id=task_id,
            head_seq=0,
            head_hash="",
            signature=message.signature,
        )
        inbound = self._inbound(task_id, peer.node_id)
        await inbound.tell(Happening(event=GotResultAck(), receipt=receipt))
        await self._tidy(task_id)

    async def _output(self, link: Link, message: Artifact) -> None:
        await self._feeds.artifact(link, message)

    async def _readmit(self, task: TaskSnapshot) -> Admission:
        record = task.record
        try:
            identity = await self._parts.identify(record.peer_id)
        except (UnknownPeer, IdentityUnknown):
            # Nobody has that node id any more, so nobody may.
            identity = Identity(node_id=record.peer_id, name=record.peer, expired=True)
        count = replace(self._count(record.task_id, record.peer_id), counted=True)
        return await admit(self._parts, identity, record.spec, count)

    def _count(self, task_id: TaskId, peer_id: NodeId) -> Count:
        others = [other for other in (*self._running, *self._queue) if other != task_id]
        of_peer = sum(1 for other in others if self._owner.get(other) == peer_id)
        return Count(of_peer=of_peer, unfinished=len(others))

    def _inbound(self, task_id: TaskId, peer_id: NodeId) -> Inbound:
        inbound = self._tasks.get(task_id)
        if inbound is None:
            inbound = self._tasks[task_id] = Inbound(task_id, self._parts, self._place)
            self._owner[task_id] = peer_id
        return inbound

    def _unsettled(self, link: Link, task_id: TaskId) -> bool:
        """Refuse a new row to a peer that acknowledges nothing; True when it was refused."""
        peer_id = link.identity.node_id
        if sum(owner == peer_id for owner in self._owner.values()) < UNSETTLED_LIMIT:
            return False
        reason = f"{UNSETTLED_LIMIT} tasks of yours wait for your receipt"
        link.post(Failure(code=QueueFull.code, reason=reason, about=task_id))
        return True

    async def _tidy(self, task_id: TaskId) -> None:
        """Forget a task that nobody must act on any more."""
        task = await self._parts.store.task(task_id)
        inbound = self._tasks.get(task_id)
        if inbound is not None and (task is None or not task.unfinished):
            await inbound.close()
            self._drop(task_id)

    async def _discard_left(self) -> None:
        """Remove the directories of settled tasks, which a crash has left."""
        tasks_dir = self._parts.tasks_dir
        names = await asyncio.to_thread(lambda: [entry.name for entry in tasks_dir.iterdir()])
        for task_id in map(TaskId, names):
            task = await self._parts.store.task(task_id)
            if task is not None and not task.unfinished:
                self._parts.supervisor.discard(task_id)

    def _drop(self, task_id: TaskId) -> None:
        inbound = self._tasks.pop(task_id, None)
        if inbound is not None:
            inbound.stop()
        self._owner.pop(task_id, None)
        # A row that could not be committed may have taken a place already.
        self._leave(task_id)

    def _free(self) -> int:
        return self._parts.rules.config().worker.concurrent - len(self._running)

    def _take(self, task_id: TaskId) -> bool:
        """Give a place to a task that is among the first in the queue for the free ones."""
        if task_id in self._running:
            return True
        self._queue.setdefault(task_id)
        if task_id not in islice(self._queue, max(0, self._free())):
            return False
        del self._queue[task_id]
        self._running.add(task_id)
        return True

    def _leave(self, task_id: TaskId) -> None:
        if task_id not in self._running and task_id not in self._queue:
            return
        self._queue.pop(task_id, None)
        self._running.discard(task_id)
        self.fill()


def _is_of(task: TaskSnapshot, peer_id: NodeId) -> bool:
    return task.record.direction is Direction.IN and task.record.peer_id == peer_id


def _unknown(link: Link, task_id: TaskId) -> None:
    reason = "no such task of yours is known here"
    link.post(Failure(code="task_not_found", reason=reason, about=task_id))


def _task_record(spec: TaskSpec, peer: Identity, rule: str | None) -> TaskRecord:
    return TaskRecord(
        task_id=spec.task_id,
        direction=Direction.IN,
        peer_id=peer.node_id,
        peer=peer.name,
        principal=principal(peer),
        session="",
        project="",
        idempotency_key="",
        spec=spec,
        payload_hash=spec.payload_hash(),
        worker_incarnation="",
        rule=rule,
    )


def _submitted_record(spec: TaskSpec, peer: Identity, admission: Admission) -> TaskRecord:
    """Return a submit's row; of a denied one the hash tells the prompt, and little is kept."""
    record = _task_record(spec, peer, admission.rule)
    if admission.effect != "deny":
        return record
    return replace(record, spec=replace(spec, prompt=cut(spec.prompt, DENIED_PROMPT_CHARACTERS)))


def _tombstone(message: Cancel, peer: Identity, parts: Parts) -> TaskRecord:
    """Return the row of a task that was cancelled before it came: its id and its hash."""
    spec = TaskSpec(
        task_id=TaskId(message.task_id),
        runner="",
        profile=Profile.QUERY,
        directory="",
        prompt="",
        limits=Limits(),
        not_after=parts.clock.now(),
    )
    return replace(_task_record(spec, peer, None), payload_hash=message.payload_hash)
