"""The caller's side: what this node has asked of peers, one `Outbound` a task.

Makes task ids, keeps what is unfinished moving when links come, and takes up
what workers say.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial

from cmesh.daemon.answering import not_taken
from cmesh.daemon.deadlines import Deadlines
from cmesh.daemon.fetch import Outputs
from cmesh.daemon.fleet_asks import FleetAsks
from cmesh.daemon.hearsay import FORGOTTEN, Hearsay, forgotten
from cmesh.daemon.outbound import Outbound, Word
from cmesh.daemon.parts import Parts
from cmesh.daemon.receipts import Receipts
from cmesh.daemon.released import Released
from cmesh.daemon.turns import Turns
from cmesh.errors import CmeshError, DiskFull, RemoteProtocolError
from cmesh.link.link import Link
from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.convert import event_from
from cmesh.protocol.happenings import (
    Connected,
    Delegated,
    Expired,
    GotAccepted,
    GotDenied,
    GotEvent,
    GotForgotten,
    GotGap,
    GotResult,
    GotStillWanted,
    GotWelcome,
    LinkUp,
    UserCancels,
)
from cmesh.protocol.link_messages import Failure, Receipt
from cmesh.protocol.messages import (
    Accepted,
    Cancelled,
    Denied,
    End,
    EventMessage,
    Gap,
    Message,
    ResultMessage,
    SqlAnswer,
    StillWanted,
)
from cmesh.store.records import DecisionRecord, TaskRecord, TaskSnapshot

__all__ = ["Caller"]

logger = logging.getLogger(__name__)


class Caller:
    """All outbound tasks of this node.

    Attributes:
        hearsay: what workers said that is not stored.
        released: what was withheld and has been released since.
        queries: what peers are asked of their audit.
    """

    def __init__(self, parts: Parts, link: Callable[[NodeId], Link | None]) -> None:
        """Make it; `link` gives the open link to a node, if there is one."""
        self._parts = parts
        self._link = link
        self._tasks: dict[TaskId, Outbound] = {}
        self._worker: dict[TaskId, NodeId] = {}
        self._of: dict[NodeId, dict[TaskId, None]] = {}
        self._deadlines: Deadlines[datetime] = Deadlines(lambda task_id: task_id in self._tasks)
        self._receipts = Receipts(parts)
        self.hearsay = Hearsay(parts.clock, lambda task_id: task_id in self._tasks)
        self._outputs = Outputs(parts.store)
        self._turns = Turns()
        self.released = Released(parts, link)
        self.queries = FleetAsks(self._turns)

    async def recover(self) -> None:
        """Take up every unfinished task of an earlier life."""
        for task in await self._parts.store.unfinished():
            if task.record.direction is Direction.OUT:
                self._outbound(task.record.task_id, task.record.peer_id)
                self._deadlines.add(task.record.task_id, task.record.spec.not_after)

    async def close(self) -> None:
        """Finish what was told."""
        await self.released.close()
        await self._turns.close()
        self._outputs.close()
        for outbound in list(self._tasks.values()):
            await outbound.close()

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        return peer_id in self._of

    def peers(self) -> set[NodeId]:
        """Return the workers of unfinished tasks."""
        return set(self._of)

    def of(self, peer_id: NodeId) -> list[TaskId]:
        """Return the unfinished tasks of one worker."""
        return list(self._of.get(peer_id, ()))

    def elsewhere(self, task_id: TaskId) -> bool:
        """Whether the worker's store is not the one the task was sent to."""
        outbound = self._tasks.get(task_id)
        return outbound is not None and outbound.elsewhere

    async def delegate(self, record: TaskRecord, decision: DecisionRecord) -> None:
        """Commit a new task, and send it in the same breath when a link is open.

        Raises:
            DiskFull: nothing was committed, nothing was sent.
        """
        outbound = self._outbound(record.task_id, record.peer_id)
        self._deadlines.add(record.task_id, record.spec.not_after)
        words = [Word(happened=Delegated(), record=record, decision=decision)]
        if self._link(record.peer_id) is not None:
            words.append(Word(happened=LinkUp()))
        # Before the wait: whoever asked may go away meanwhile, and the task must not lie.
        self._parts.want(record.peer_id)
        try:
            await outbound.done(*words)
        except Exception:
            self._drop(record.task_id)
            raise

    async def cancel(self, task: TaskSnapshot, reason: str, code: str = "cancelled") -> None:
        """Store the wish, and pass it on when a link is open."""
        outbound = self._outbound(task.record.task_id, task.record.peer_id)
        await outbound.done(Word(happened=UserCancels(), code=code, reason=reason))
        self._tidy(task.record.task_id)

    async def expire(self) -> None:
        """End, or ask to end, what was not started in time by this node's clock."""
        now = self._parts.clock.now()
        for task_id in self._deadlines.due(now):
            task = await self._parts.store.task(task_id)
            outbound = self._tasks.get(task_id)
            if task is None or outbound is None or {"expiry_wish", "cancel_wish"} & task.facts:
                continue
            self._deadlines.add(task_id, now)  # looked at again, until it is stored
            why = "its time to start was over"
            with contextlib.suppress(CmeshError):  # logged; asked again at the next tick
                await outbound.done(Word(happened=Expired(), code="expired", reason=why))
            self._tidy(task_id)

    async def retry(self) -> None:
        """Ask anew for what could not be stored here, or not be taken there, for want of room."""
        if not self._parts.store.has_room():
            return
        for task_id in self.hearsay.due():
            outbound = self._tasks[task_id]
            again = outbound.stalled or self.hearsay.refused(task_id)
            # Without a link the next one asks for all.
            if again and self._link(self._worker[task_id]) is not None:
                self.hearsay.settle(task_id)
                self._outputs.drop(task_id)
                outbound.tell(Word(happened=Connected()))

    def connected(self, link: Link) -> None:
        """A link opened: send what was never sent, follow what was."""
        for task_id in self.of(link.identity.node_id):
            self.hearsay.settle(task_id)
            self._tasks[task_id].tell(Word(happened=Connected()))
        self.offered(link, link.opened.unacknowledged)

    def offered(self, link: Link, task_ids: tuple[str, ...]) -> None:
        """A worker lists ended tasks it has no receipt for."""
        for text in task_ids:
            self._turns.add(text, link, partial(self._offered, link, TaskId(text)))

    def disconnected(self, link: Link) -> None:
        """A link ended; the next one is asked for the rest of what is half fetched."""
        for task_id in self.of(link.identity.node_id):
            self._outputs.pause(task_id)
        self.released.disconnected(link)
        self.queries.disconnected(link)

    def take(self, link: Link, message: Message) -> bool:
        """Take a message; False when it is not the caller's."""
        if isinstance(message, Receipt):
            self._turns.add("receipt", link, partial(self._receipts.take, link, message))
            return True
        if isinstance(message, SqlAnswer):
            self.queries.take(link, message)
            return True
        if isinstance(message, Failure):
            self._failed(link, message)
            return True
        if not isinstance(
            message,
            Accepted | Denied | EventMessage | Gap | End | ResultMessage | StillWanted | Cancelled,
        ):
            return False
        task_id = TaskId(message.task_id)
        outbound = self._tasks.get(task_id)
        if outbound is None:
            self._turns.add(task_id, link, partial(self._late, link, task_id, message))
        elif self._worker[task_id] != link.identity.node_id:
            logger.warning("not_its_task", extra={"data": {"peer": link.identity.name}})
        else:
            self.hearsay.hear(task_id)
            self._said(outbound, link, message)
        return True

    def take_chunk(self, link: Link, chunk: Chunk) -> None:
        """Take a piece of an output that was asked for."""
        if self.released.take_chunk(link, chunk) or self.queries.take_chunk(link, chunk):
            return
        if self._worker.get(chunk.task_id) == link.identity.node_id:
            self._turns.add(chunk.task_id, link, partial(self._chunk, link, chunk))

    def _said(self, outbound: Outbound, link: Link, message: Message) -> None:
        match message:
            case Accepted():
                waits = message.waiting
                outbound.tell(Word(happened=GotAccepted(), accepted_waiting=waits, link=link))
            case Denied():
                denied = partial(self._denied, outbound, link, message)
                self._turns.add(message.task_id, link, denied)
            case EventMessage():
                happened = GotEvent(message.seq)
                outbound.tell(Word(happened=happened, event=event_from(message), link=link))
            case Gap():
                outbound.tell(Word(happened=GotGap(message.through_seq), link=link))
            case StillWanted():
                outbound.tell(Word(happened=GotStillWanted(), link=link))
            case ResultMessage():
                ended = partial(self._result, outbound, link, message)
                self._turns.add(message.task_id, link, ended)
            case Cancelled():
                self.hearsay.count(outbound.task_id, message.processes_left)
            case _:  # `end` changes nothing that is stored
                pass

    async def _denied(self, outbound: Outbound, link: Link, message: Denied) -> None:
        denied = GotDenied(code=message.code, reason=message.reason)
        reason = "; ".join(part for part in (message.reason, message.change) if part)
        word = Word(
            happened=denied,
            code=message.code,
            reason=reason,
            retry_after_s=message.retry_after_s,
            link=link,
        )
        await outbound.done(word)
        self._tidy(outbound.task_id)

    async def _result(self, outbound: Outbound, link: Link, message: ResultMessage) -> None:
        """Take up an end; its output comes first, when it is not here yet."""
        task_id, outcome = TaskId(message.task_id), message.outcome
        task = await self._parts.store.task(task_id)
        if outbound.stalled or task is None:
            return
        try:
            limit_bytes = task.record.spec.limits.output_bytes
            if not await self._outputs.ready(link, message, limit_bytes):
                return
        except DiskFull:
            outbound.stall()
            raise
        word = Word(
            happened=GotResult(state=outcome.state, last_seq=message.last_seq),
            result=message,
            refused=self._outputs.refused(task_id),
            patch_refused=self._outputs.refused(task_id, "patch"),
            artifacts_refused=self._outputs.refused(task_id, "artifact"),
            answer_refused=await asyncio.to_thread(not_taken, task.record.spec, outcome),
            link=link,
        )
        await outbound.done(word)
        if outbound.stalled:
            return
        self.hearsay.settle(task_id)
        self._outputs.forget(task_id)
        self._tidy(task_id)

    async def _chunk(self, link: Link, chunk: Chunk) -> None:
        outbound = self._tasks.get(chunk.task_id)
        if outbound is None:
            return
        message = self._outputs.pending(chunk.task_id)
        try:
            message = await self._outputs.take(chunk)
        except RemoteProtocolError:
            # Without its output the end is taken all the same: it would never come whole.
            if message is not None:
                await self._result(outbound, link, message)
            raise
        except DiskFull:
            outbound.stall()
            raise
        if message is not None:
            await self._result(outbound, link, message)

    async def _offered(self, link: Link, task_id: TaskId) -> None:
        task = await self._parts.store.task(task_id)
        if task is None or not _is_of(task, link):
            return
        outbound = self._outbound(task_id, task.record.peer_id)
        await outbound.done(Word(happened=GotWelcome(), link=link))
        if task.terminal and task.result is not None:
            self._drop(task_id)

    async def _late(self, link: Link, task_id: TaskId, message: Message) -> None:
        """Take a message about a task that has ended here."""
        task = await self._parts.store.task(task_id)
        if task is None or not _is_of(task, link):
            return
        outbound = self._outbound(task_id, task.record.peer_id)
        self._said(outbound, link, message)
        await outbound.close()
        if not isinstance(message, ResultMessage):
            self._tidy(task_id)

    def _failed(self, link: Link, message: Failure) -> None:
        if self.released.failed(link, message) or self.queries.failed(link, message):
            return
        task_id = TaskId(message.about)
        outbound = self._tasks.get(task_id)
        if outbound is None or self._worker[task_id] != link.identity.node_id:
            return
        # An output that is not kept there says nothing of the task.
        if message.code in FORGOTTEN and self._outputs.pending(task_id) is None:
            reason = forgotten(message.code, link.identity.label)
            outbound.tell(
                Word(happened=GotForgotten(), code=message.code, reason=reason, link=link)
            )
        if self.hearsay.take(message):
            self._parts.news.tell(task_id)

    def _tidy(self, task_id: TaskId) -> None:
        """Forget a task that needs nothing more from its worker."""
        if not self._parts.store.is_unfinished(task_id):
            self._drop(task_id)

    def _outbound(self, task_id: TaskId, worker: NodeId) -> Outbound:
        outbound = self._tasks.get(task_id)
        if outbound is None:
            outbound = Outbound(
                task_id,
                self._parts,
                lambda record: self._link(record.peer_id),
                self.hearsay.stalled,
            )
            self._tasks[task_id] = outbound
            self._worker[task_id] = worker
            self._of.setdefault(worker, {})[task_id] = None
        return outbound

    def _drop(self, task_id: TaskId) -> None:
        self._tasks.pop(task_id, None)
        worker = self._worker.pop(task_id, None)
        if worker is not None:
            tasks = self._of[worker]
            tasks.pop(task_id, None)
            if not tasks:
                del self._of[worker]
        self.hearsay.drop(task_id)
        self._outputs.forget(task_id)


def _is_of(task: TaskSnapshot, link: Link) -> bool:
    """Whether this node asked the link's peer for a task; one id is never both ways."""
    asked = task.record.direction is Direction.OUT
    return asked and task.record.peer_id == link.identity.node_id
