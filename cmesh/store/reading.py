"""The store's read side: from memory what is lately or unfinished, else from the database.

Only reads. Every method belongs to one event loop and none blocks it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from cmesh.clock import Clock
from cmesh.errors import StoreError
from cmesh.model import DayUse, Direction, Event, NodeId, TaskId, TaskState
from cmesh.protocol.proof_messages import WholeEnd
from cmesh.store import held, proofs, queries
from cmesh.store.drafts import drafts
from cmesh.store.exchange import Reader
from cmesh.store.history import Figures, History, Wanted, figures_since, found, history_of
from cmesh.store.index import Index
from cmesh.store.process import DatabaseProcess
from cmesh.store.records import ReceiptRecord, TaskSnapshot, TrustRecord
from cmesh.store.signatures import NODE_UP, EndSignature, check_end

__all__ = ["Reading"]

T = TypeVar("T")

READ_LIMIT_S = 60.0

_PREFIX_MATCHES = 20
_ID_CHARACTERS = 36


class Reading:
    """What can be asked of a store; `Store` adds what changes it."""

    def __init__(self, index: Index, process: DatabaseProcess, clock: Clock) -> None:
        self._index = index
        self._process = process
        self._clock = clock
        self._closing: asyncio.Future[None] | None = None

    async def task(self, task_id: TaskId) -> TaskSnapshot | None:
        """Return a task, or None. Unfinished and lately finished ones come from memory."""
        found = self._index.find(task_id)
        if found is not None or not self._index.may_know(task_id):
            return found
        missed = self._index.missed
        read = await self._read(partial(drafts, ids=[task_id]))
        return self._index.remember(read[0], missed) if read else None

    def is_unfinished(self, task_id: TaskId) -> bool:
        """Say whether a task has not ended, or its caller has not acknowledged; never reads."""
        return self._index.is_unfinished(task_id)

    def alike(self, session: str, prompt: str) -> list[TaskSnapshot]:
        """Return what a session has asked for with this prompt and has not ended."""
        return self._index.alike(session, prompt)

    async def unfinished(self) -> list[TaskSnapshot]:
        """Return tasks that have not ended, or whose caller has not acknowledged; oldest first."""
        return self._index.unfinished()

    async def tasks(
        self,
        *,
        direction: Direction | None = None,
        states: Sequence[TaskState] | None = None,
        session: str | None = None,
        limit: int,
    ) -> list[TaskSnapshot]:
        """Return tasks, newest first. `states` are the public ones.

        The latest ones come from memory.
        """
        self._require_open()
        wanted = partial(self._index.listed, direction=direction, states=states, session=session)
        now = self._clock.now()
        found = wanted(limit=limit, now=now)
        if found is not None:
            return found
        read = partial(queries.snapshots, direction=direction, states=states, session=session)
        return await self._read(partial(read, limit=limit, now=now))

    async def found(self, wanted: Wanted, limit: int) -> list[TaskSnapshot]:
        """Return tasks of any age, newest first; always asks the database."""
        return await self._read(partial(found, wanted=wanted, limit=limit))

    async def history(self, task_id: TaskId) -> History:
        """Return what the log has of one task."""
        return await self._read(partial(history_of, task_id=task_id))

    async def figures(self, since: datetime) -> Figures:
        """Return what was asked for, taken and ended since a moment."""
        return await self._read(partial(figures_since, since=since))

    async def end_signatures(self, task_id: TaskId) -> list[EndSignature]:
        """Check the signatures on a task's end."""
        return await self._read(partial(check_end, task_id=task_id))

    async def events(self, task_id: TaskId, *, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events numbered above `after`, oldest first."""
        tail = self._index.tail(task_id, after)
        if tail is not None:
            return tail[:limit]
        read = partial(queries.events, task_id=task_id, after=after, limit=limit)
        return await self._read(read)

    async def last_events(self, task_id: TaskId, limit: int) -> list[Event]:
        """Return the latest `limit` events, oldest first."""
        tail = self._index.latest(task_id, limit)
        if tail is not None:
            return tail
        return await self._read(partial(queries.last_events, task_id=task_id, limit=limit))

    async def find_by_prefix(self, prefix: str) -> list[TaskId]:
        """Return ids that start or end with `prefix`, newest first, 20 at most."""
        if len(prefix) == _ID_CHARACTERS:
            # A whole id: to look through all of them, as for an end, would cost more than the task.
            whole = TaskId(prefix.lower())
            return [whole] if await self.task(whole) is not None else []
        return await self._read(partial(queries.prefixed, prefix=prefix, limit=_PREFIX_MATCHES))

    async def idempotent(self, key: str) -> TaskId | None:
        """Return the task this node asked for with `key`, or None."""
        if not key or not self._index.may_have(key):
            return None
        lately = self._index.by_key(key)
        return lately or await self._read(partial(queries.idempotent, key=key))

    def groups(self, reference: str) -> dict[str, list[TaskId]]:
        """Return the groups whose name begins or ends so, with their tasks, oldest first."""
        return self._index.groups(reference)

    def followers(self, task_id: TaskId) -> list[TaskId]:
        """Return the tasks that were asked for as the turn after this one, oldest first."""
        return self._index.followers(task_id)

    async def trust(self) -> list[TrustRecord]:
        """Return the latest decision about each peer's key."""
        return self._index.trust()

    def head_of(self, peer_id: NodeId) -> ReceiptRecord | None:
        """Return the latest audit head that a peer has signed for this node."""
        return self._index.head_of(peer_id)

    async def held(self, peer_id: NodeId, after: int) -> held.Page:
        """Return a page of what this store holds of a peer's log, and of ends they share."""
        return await self._read(partial(held.page, peer_id=peer_id, after=after))

    async def whole_end(self, peer_id: NodeId, task_id: TaskId) -> WholeEnd | None:
        """Return what is signed of the end of a task with a peer; None = there is none."""
        return await self._read(partial(held.whole_end, peer_id=peer_id, task_id=task_id))

    async def own_keys(self) -> list[tuple[NodeId, str]]:
        """Return (node id, public key) of every name and key that this node had."""
        return await self._read(partial(proofs.identities, kind=NODE_UP))

    async def hashes(self, seqs: Sequence[int]) -> Mapping[int, str]:
        """Return the hashes, in hex, of those of these rows that the log has."""
        return await self._read(partial(held.hashes, seqs=seqs))

    async def counts(self, peer_id: NodeId, since: datetime) -> int:
        """Return how many tasks of this peer were stored since, without denied ones.

        `since` is the beginning of an hour; another moment counts as its hour's.
        """
        lately = self._index.count(peer_id, since, self._clock.now())
        if lately is not None:
            return lately
        rows = await self._read(partial(queries.accepted_since, since=since))
        return sum(peer == peer_id for peer, *_ in rows)

    def used(self, peer_id: NodeId, since: datetime) -> DayUse:
        """Return what a peer's tasks that ended here since then have used; `since` as for `counts`.

        At most a day ago. What a task did not tell counts as its limit.
        """
        return self._index.used(peer_id, since)

    async def _read(self, read: Callable[[Reader], T]) -> T:
        self._require_open()
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                return await self._process.read(read)
        except TimeoutError as error:
            raise StoreError(f"the database has not answered for {READ_LIMIT_S:g} s") from error

    def _require_open(self) -> None:
        if self._closing is not None:
            raise StoreError("the store is closed")
