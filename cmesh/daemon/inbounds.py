"""The tasks of peers that something is still to be done for, whose they are, and their places."""

import asyncio
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cmesh.daemon.admission import Admission, Count, admit
from cmesh.daemon.deadlines import Deadlines
from cmesh.daemon.happening import Place
from cmesh.daemon.inbound import Inbound
from cmesh.daemon.incoming import Incoming
from cmesh.daemon.parts import Parts
from cmesh.daemon.places import Places, Room
from cmesh.errors import IdentityUnknown, UnknownPeer
from cmesh.model import DayUse, Identity, Limits, NodeId, TaskId, TaskSpec
from cmesh.protocol.facts import STARTED
from cmesh.store.records import TaskRecord, TaskSnapshot

__all__ = ["Inbounds"]


class Inbounds:
    """One `Inbound` a task; who has none is settled, or was never here.

    Attributes:
        tasks: by id.
        places: who runs and who waits.
        deadlines: by when each must have been started.
        incoming: what their callers send apart from them.
    """

    def __init__(self, parts: Parts) -> None:
        self.tasks: dict[TaskId, Inbound] = {}
        self.places = Places()
        self.deadlines: Deadlines[datetime] = Deadlines(lambda task_id: task_id in self.tasks)
        self._parts = parts
        self._owner: dict[TaskId, NodeId] = {}
        self._of: dict[NodeId, dict[TaskId, None]] = {}
        self._place = Place(
            take=self._take,
            leave=self._leave,
            ready=self._ready,
            bundle=self._bundle,
            readmit=self.readmit,
        )
        self.incoming = Incoming(parts)
        self._closed = False
        self._held: dict[TaskId, tuple[NodeId, Limits]] = {}
        self._budgets = asyncio.Lock()

    def stop(self) -> None:
        """Give nobody a place any more."""
        self._closed = True

    async def close(self) -> None:
        """Finish what was told."""
        for inbound in list(self.tasks.values()):
            await inbound.close()

    def of(self, peer_id: NodeId) -> list[TaskId]:
        """Return a peer's tasks."""
        return list(self._of.get(peer_id, ()))

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a peer has any task here."""
        return peer_id in self._of

    def count_of(self, peer_id: NodeId) -> int:
        """Return how many tasks of a peer are not settled."""
        return len(self._of.get(peer_id, ()))

    def owner(self, task_id: TaskId) -> NodeId | None:
        """Return whose task it is."""
        return self._owner.get(task_id)

    def peers(self) -> set[NodeId]:
        """Return the peers that something is owed to."""
        return set(self._of)

    def open(self, task_id: TaskId, peer_id: NodeId) -> Inbound:
        """Return a task's; made when there is none."""
        inbound = self.tasks.get(task_id)
        if inbound is None:
            inbound = self.tasks[task_id] = Inbound(task_id, self._parts, self._place)
            self._owner[task_id] = peer_id
            self._of.setdefault(peer_id, {})[task_id] = None
        return inbound

    def fill(self) -> None:
        """Wake as many of those that wait for a place as there are free ones."""
        if self._closed:
            return
        for task_id in self.places.next(self._room()):
            self.tasks[task_id].look()

    def count(self, task_id: TaskId, peer_id: NodeId) -> Count:
        """Return how many other tasks are unfinished."""
        places, itself = self.places, self.places.holds(task_id)
        of_peer = places.running_of(peer_id) + places.waiting_of(peer_id)
        unfinished = places.running + places.waiting
        return Count(of_peer=of_peer - itself, unfinished=unfinished - itself)

    async def tidy(self, task_id: TaskId) -> None:
        """Forget a task that nobody must act on any more."""
        # Asked of memory alone: of many that end at once, most rows are in the database by now.
        inbound = self.tasks.get(task_id)
        if inbound is not None and not self._parts.store.is_unfinished(task_id):
            await inbound.close()
            self.drop(task_id)

    def drop(self, task_id: TaskId) -> None:
        """Forget a task, its place too."""
        inbound = self.tasks.pop(task_id, None)
        if inbound is not None:
            inbound.stop()
        self._held.pop(task_id, None)
        peer_id = self._owner.pop(task_id, None)
        if peer_id is not None:
            of_peer = self._of[peer_id]
            of_peer.pop(task_id, None)
            if not of_peer:
                del self._of[peer_id]
        self.incoming.drop(task_id)
        # A row that could not be committed may have taken a place already.
        self._leave(task_id)

    async def decide(
        self, identity: Identity, spec: TaskSpec, *, counted: bool = False
    ) -> Admission:
        """Decide on a task; what it is given of a budget of the day is held from here on.

        Blocks as `admit` does.
        """
        rules = self._parts.rules.config().policy.inbound
        if not any(rule.limits.by_day for rule in rules):
            count = replace(self.count(spec.task_id, identity.node_id), counted=counted)
            return await admit(self._parts, identity, spec, count)
        async with self._budgets:  # of two that are decided at once, one sees the other
            count = self.count(spec.task_id, identity.node_id)
            held = await self._held_of(identity.node_id, spec.task_id)
            count = replace(count, counted=counted, held=held)
            admission = await admit(self._parts, identity, spec, count)
            if admission.grant is not None:
                self._held[spec.task_id] = (identity.node_id, admission.grant.limits)
            return admission

    async def _held_of(self, peer_id: NodeId, but: TaskId) -> DayUse:
        """Return what a peer's unfinished tasks may use yet, without one of them."""
        given = {
            task_id: limits for task_id, (peer, limits) in self._held.items() if peer == peer_id
        }
        held = DayUse()
        for task_id in {*self.of(peer_id), *given} - {but}:
            task = await self._parts.store.task(task_id)
            if task is not None and task.terminal:
                continue
            limits = given.get(task_id)
            # One of an earlier life that was not started is decided anew before it is.
            if limits is None and task is not None and task.state in STARTED:
                limits = task.granted or task.record.spec.limits
            held += _most(limits) if limits is not None else DayUse()
        return held

    async def readmit(self, task: TaskSnapshot) -> Admission:
        """Decide anew whether a task may run, by who its caller is now."""
        record = task.record
        try:
            identity = await self._parts.identify(record.peer_id)
        except (UnknownPeer, IdentityUnknown):
            # Nobody has that node id any more, so nobody may.
            identity = Identity(node_id=record.peer_id, name=record.peer, expired=True)
        return await self.decide(identity, record.spec, counted=True)

    def _room(self) -> Room:
        worker = self._parts.rules.config().worker
        per_peer = worker.concurrent_per_peer
        return Room(total=worker.concurrent, per_peer=per_peer or worker.concurrent)

    def _take(self, task_id: TaskId) -> bool:
        """Give a place to a task when it is its turn; otherwise it waits for one."""
        return self.places.take(task_id, self._owner[task_id], self._room())

    async def _ready(self, record: TaskRecord) -> bool:
        return await self.incoming.ready(record)

    def _bundle(self, task_id: TaskId) -> Path | None:
        return self.incoming.bundle(task_id)

    def _leave(self, task_id: TaskId) -> None:
        if self.places.leave(task_id):
            self.fill()


def _most(limits: Limits) -> DayUse:
    return DayUse(
        cost_usd=limits.cost_usd or 0.0, tokens=limits.tokens or 0, runtime_s=limits.runtime_s
    )
