"""What peers ask of this node's worker: each message checked, decided, committed, answered."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from cmesh.daemon import followup
from cmesh.daemon.bundles import Bundles
from cmesh.daemon.feed import Feeds
from cmesh.daemon.fleet_answers import FleetAnswers
from cmesh.daemon.happening import Happening
from cmesh.daemon.inbound_rows import is_of, submitted_record, tombstone
from cmesh.daemon.inbounds import Inbounds
from cmesh.daemon.parts import Parts
from cmesh.daemon.refusals import DISK_RETRY_S, Rates, failed, forgotten, unknown
from cmesh.daemon.turns import Turns
from cmesh.errors import (
    CmeshError,
    DiskFull,
    QueueFull,
    RemoteProtocolError,
    StoreError,
    TaskConflict,
)
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.link.tailnet import GOING_AWAY
from cmesh.model import NodeId, TaskId, TaskSpec, TaskState
from cmesh.protocol.codec import Chunk
from cmesh.protocol.convert import outcome_from, spec_from
from cmesh.protocol.happenings import Connected, GotCancel, GotResultAck, GotSubmit, GotWanted
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import (
    Accepted,
    Artifact,
    Bundle,
    Cancel,
    Denied,
    Lacks,
    Message,
    ResultAck,
    Sql,
    SqlCancel,
    Submit,
    Subscribe,
    Wanted,
)
from cmesh.protocol.receipts import result_bytes
from cmesh.store.records import ReceiptRecord, TaskSnapshot

__all__ = ["UNSETTLED_LIMIT", "Requests"]

logger = logging.getLogger(__name__)

UNSETTLED_LIMIT = 1_000
"""Tasks of one peer without its receipt, beyond which nothing new of it is written down."""

UNSETTLED_RETRY_S = 60

ADMITTED_AT_ONCE = 2
"""Submits of one peer that are decided and committed at a time; the others wait behind them."""

DECIDED_LIMIT_S = 5.0
"""How long a look at a peer's rights waits for these: a disk may hang."""


class Requests:
    """The messages of all peers to the worker's side."""

    def __init__(self, parts: Parts, inbounds: Inbounds) -> None:
        self._parts = parts
        self._inbounds = inbounds
        self._feeds = Feeds(parts)
        self._bundles = Bundles(parts)
        self._turns = Turns()
        self._rates = Rates(parts, self._turns)
        self._answers = FleetAnswers(parts, self._rates.fine)
        self._gates: dict[NodeId, asyncio.Semaphore] = {}
        self._deciding: dict[NodeId, set[asyncio.Task[Any]]] = {}
        self._short: WeakKeyDictionary[Link, set[TaskId]] = WeakKeyDictionary()
        self._following = asyncio.Lock()  # of two turns after the same one, one is taken

    async def drain(self) -> None:
        """Take no new task from here on; wait until what has begun is committed and answered."""
        self._rates.draining = True
        await self._turns.close()

    async def close(self) -> None:
        """Finish what has begun."""
        await self._turns.close()
        await self._feeds.close()  # after the turns, which begin some
        await self._answers.close()
        self._bundles.close()

    async def decided(self, peer_id: NodeId) -> None:
        """Wait until the submits of a peer that are being decided are; at most `DECIDED_LIMIT_S`.

        What was decided by who it was before is then in the store, for who looks at it anew.
        """
        if deciding := self._deciding.get(peer_id):
            await asyncio.wait(set(deciding), timeout=DECIDED_LIMIT_S)

    def disconnected(self, link: Link) -> None:
        """A link ended; its subscriptions end with it."""
        self._feeds.drop(link)
        self._answers.drop(link)
        self._inbounds.incoming.relinked(link.identity.node_id)
        self._gates.pop(link.identity.node_id, None)  # who waits at it keeps it

    def take_chunk(self, link: Link, chunk: Chunk) -> bool:
        """Take a piece of what a caller sends; False when it is none."""
        if not self._inbounds.incoming.expects(chunk.task_id, link.identity.node_id):
            return False
        work = partial(self._stored, link, partial(self._sent, chunk))
        self._turns.add(f"changes {chunk.task_id}", link, work)
        return True

    async def _sent(self, chunk: Chunk) -> None:
        inbound = self._inbounds.tasks.get(chunk.task_id)
        try:
            if await self._inbounds.incoming.take(chunk) and inbound is not None:
                inbound.look()
        except RemoteProtocolError as error:
            if inbound is not None:
                why = f"the changes its caller sent were not taken: {error.message}"
                inbound.tell(Happening(event=GotCancel("user"), code=error.code, reason=why))
            raise

    def _not_sent(self, link: Link, message: Failure) -> bool:
        """Take a refusal to send what was announced; False when it is about something else."""
        task_id = TaskId(message.about)
        if not self._inbounds.incoming.expects(task_id, link.identity.node_id):
            return False
        why = self._inbounds.incoming.refused(task_id, message.reason)
        inbound = self._inbounds.tasks.get(task_id)
        if inbound is not None:
            inbound.tell(Happening(event=GotCancel("user"), code=message.code, reason=why))
        return True

    def forget(self) -> None:
        """Drop what is known of the rates of peers that ask nothing."""
        self._rates.forget()

    def take(self, link: Link, message: Message) -> bool:
        """Take a message; False when it is not the worker's."""
        match message:
            case Submit():
                size = len(message.spec.prompt)
                if self._rates.turn_away(link, message.task_id, size):
                    return True
                work = partial(self._in_turn, link, message)
            case Cancel():
                work = partial(self._cancelled, link, message)
            case Subscribe():
                work = partial(self._subscribed, link, message)
            case Wanted():
                work = partial(self._wanted, link, TaskId(message.task_id))
            case ResultAck():
                work = partial(self._acknowledged, link, message)
            case Artifact() | Lacks():
                output = partial(self._output, link, message)
                self._turns.add(f"{message.type} {message.task_id}", link, output)
                return True
            case Bundle():
                work = partial(self._announced, link, message)
            case Failure():
                return self._not_sent(link, message)
            case _:
                return self._queried(link, message)
        self._turns.add(message.task_id, link, partial(self._stored, link, work))
        return True

    def _queried(self, link: Link, message: Message) -> bool:
        """Take what is about a query; False when it is about something else."""
        if isinstance(message, SqlCancel):
            self._answers.cancel(link, message.query_id)
        elif not isinstance(message, Sql):
            return False
        elif not self._rates.turn_away(link, message.query_id, len(message.sql)):
            self._answers.take(link, message)
        return True

    async def _stored(self, link: Link, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`; what could not be stored is said again by the peer on a new link."""
        try:
            await work()
        except StoreError as error:
            await link.close(GOING_AWAY, error.code)
            raise

    async def _in_turn(self, link: Link, message: Submit) -> None:
        """Take a submit, few of one peer at a time: a burst of it must not hold up the others."""
        peer_id = link.identity.node_id
        gate = self._gates.setdefault(peer_id, asyncio.Semaphore(ADMITTED_AT_ONCE))
        async with gate:
            if link.turned_away:  # while it waited here
                return
            task = asyncio.current_task()
            assert task is not None
            deciding = self._deciding.setdefault(peer_id, set())
            deciding.add(task)
            try:
                await self._submitted(link, message)
            finally:
                deciding.discard(task)
                if not deciding:
                    del self._deciding[peer_id]

    async def _submitted(self, link: Link, message: Submit) -> None:
        spec, peer = spec_from(message), link.identity
        known = await self._parts.store.task(spec.task_id)
        if known is not None:
            await self._known(link, known, message)
            return
        if self._unsettled(link, spec.task_id):
            return
        if spec.follows is None:
            await self._submitted_new(link, spec, None, waited=message.waited)
            return
        async with self._following:
            before = await self._parts.store.task(spec.follows)
            own = before is not None and is_of(before, peer.node_id)
            before = before if own else None
            await self._submitted_new(link, spec, before, waited=message.waited)

    async def _submitted_new(
        self, link: Link, spec: TaskSpec, before: TaskSnapshot | None, *, waited: bool
    ) -> None:
        """Take a task that is not known; `before` is the turn that a follow-up follows."""
        peer = link.identity
        admission = await self._inbounds.decide(peer, spec)
        event = GotSubmit(admission.effect, waited=waited)
        if admission.effect != "deny" and spec.not_after <= self._parts.clock.now():
            why = "its time to start was over when it came"
            admission = replace(admission, effect="deny", grant=None, code="expired", reason=why)
            event = replace(event, decision="deny")
        if admission.effect != "deny" and spec.follows is not None:
            unfit = await followup.unfit(self._parts, before, spec)
            event = replace(event, before="unfit" if unfit else "ready")
            admission = followup.refusal(admission, unfit) if unfit else admission
        if admission.effect == "deny":
            self._rates.fine(peer.node_id)
        happening = Happening(
            event=event,
            record=submitted_record(spec, peer, admission, before, self._parts.redactor()),
            admission=admission,
            code=admission.code,
            reason=admission.reason,
            reply_to=peer.node_id,
        )
        try:
            await self._inbounds.open(spec.task_id, peer.node_id).tell(happening)
        except CmeshError as error:  # nothing was committed, so nothing is accepted
            self._inbounds.drop(spec.task_id)
            wait_s = DISK_RETRY_S if isinstance(error, DiskFull) else error.retry_after_s
            failed(link, spec.task_id, error, wait_s)
            return
        if admission.effect != "deny":
            self._inbounds.deadlines.add(spec.task_id, spec.not_after)
        if waited:  # it is asked about on this connection, not only on the next
            self._inbounds.open(spec.task_id, peer.node_id).tell(
                Happening(event=Connected(), reply_to=peer.node_id)
            )

    async def _known(self, link: Link, known: TaskSnapshot, message: Submit) -> None:
        record, peer = known.record, link.identity
        if not is_of(known, peer.node_id):  # nothing of another's task is told
            reason = "this task id is in use"
            link.post(Denied(task_id=record.task_id, code=TaskConflict.code, reason=reason))
            return
        if known.forgotten and known.state != TaskState.DENIED:
            # The hash went with the texts. The id alone says that it must not run again, and
            # whoever then asks how it went is told that this store has less of it.
            accepted = Accepted(task_id=record.task_id, payload_hash=message.payload_hash)
            link.post(accepted)
            return
        happening = Happening(
            event=GotSubmit("allow"),
            same_hash=known.forgotten or record.payload_hash == message.payload_hash,
            code=known.code,
            reason=known.reason,
            reply_to=peer.node_id,
        )
        await self._inbounds.open(record.task_id, record.peer_id).tell(happening)
        await self._inbounds.tidy(record.task_id)

    async def _cancelled(self, link: Link, message: Cancel) -> None:
        task_id, peer = TaskId(message.task_id), link.identity
        known = await self._parts.store.task(task_id)
        if known is not None and not is_of(known, peer.node_id):
            unknown(link, task_id)
            return
        if known is None and (
            self._rates.turn_away(link, task_id) or self._unsettled(link, task_id)
        ):
            return
        user = message.reason == "user"
        happening = Happening(
            event=GotCancel(message.reason),
            record=tombstone(message, peer, self._parts),
            code="" if user else "expired",
            reason="the caller cancelled it" if user else "its time to start was over",
            reply_to=peer.node_id,
        )
        try:
            await self._inbounds.open(task_id, peer.node_id).tell(happening)
        finally:
            await self._inbounds.tidy(task_id)

    async def _subscribed(self, link: Link, message: Subscribe) -> None:
        task_id = TaskId(message.task_id)
        known = await self._parts.store.task(task_id)
        if known is None or not is_of(known, link.identity.node_id):
            unknown(link, task_id)
        elif known.forgotten:
            forgotten(link, task_id)
        elif message.after_seq > known.last_event:
            self._note_short(link, task_id, message.after_seq, known.last_event)
            forgotten(link, task_id)
        else:
            self._feeds.follow(link, task_id, message.after_seq)
            inbound = self._inbounds.tasks.get(task_id)
            if inbound is not None:
                inbound.followed()

    def _note_short(self, link: Link, task_id: TaskId, told: int, last_event: int) -> None:
        """Log it once a link and task: a peer may ask as often as it likes, and may lie.

        The peer's word alone proves nothing to this node, so nothing else is written down.
        """
        noted = self._short.setdefault(link, set())
        if task_id not in noted:
            noted.add(task_id)
            peer = link.identity.name
            data = {"peer": peer, "task": task_id, "told": told, "last_event": last_event}
            logger.warning("history_is_short", extra={"data": data})

    async def _wanted(self, link: Link, task_id: TaskId) -> None:
        if self._inbounds.owner(task_id) != link.identity.node_id:
            unknown(link, task_id)
            return
        await self._inbounds.tasks[task_id].tell(Happening(event=GotWanted()))

    async def _acknowledged(self, link: Link, message: ResultAck) -> None:
        task_id, peer = TaskId(message.task_id), link.identity
        task = await self._parts.store.task(task_id)
        if task is None or task.result is None or not is_of(task, peer.node_id):
            unknown(link, task_id)
            return
        if task.forgotten:  # it was acknowledged before that, and what was signed is erased
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
        inbound = self._inbounds.open(task_id, peer.node_id)
        await inbound.tell(Happening(event=GotResultAck(), receipt=receipt))
        await self._inbounds.tidy(task_id)

    async def _output(self, link: Link, message: Artifact | Lacks) -> None:
        if isinstance(message, Lacks):
            await self._bundles.wanted(link, message)
        elif not await self._bundles.send(link, message):
            await self._feeds.artifact(link, message)

    async def _announced(self, link: Link, message: Bundle) -> None:
        self._inbounds.incoming.announced(message, link.identity.node_id)

    def _unsettled(self, link: Link, task_id: TaskId) -> bool:
        """Refuse a new row to a peer that acknowledges nothing; True when it was refused."""
        peer_id = link.identity.node_id
        if self._inbounds.count_of(peer_id) < UNSETTLED_LIMIT:
            return False
        why = QueueFull(f"{UNSETTLED_LIMIT} tasks of yours are unfinished or wait for your receipt")
        failed(link, task_id, why, UNSETTLED_RETRY_S)
        return True
