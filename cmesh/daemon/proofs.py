"""Nodes that ask each other about their logs: what a peer may be told, and how one is asked.

A peer is told what it has signed itself, and how the tasks ended that it took part in; of this
log only what it holds this node's own signature for. Nothing is stored, nothing is decided.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from cmesh.daemon.parts import Parts
from cmesh.daemon.turns import Turns
from cmesh.errors import CmeshError, PeerOutdated, PeerUnreachable, by_code
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.model import NodeId, TaskId
from cmesh.protocol.link_messages import Failure, Seen
from cmesh.protocol.messages import Message
from cmesh.protocol.proof_messages import PROOF, AskedHead, Proof, ProofAnswer, RowNow
from cmesh.protocol.receipts import head_bytes
from cmesh.rate import Bucket

__all__ = ["ANSWER_LIMIT_S", "Proofs"]

ANSWER_LIMIT_S = 20.0
"""How long a peer may take with one answer."""

ASKED_PER_S, ASKED_BURST = 10, 100
"""Questions of one peer; each is a look into the database, and a faster peer waits."""


@dataclass(frozen=True, slots=True)
class _Asked:
    link: Link
    answer: "asyncio.Future[ProofAnswer]"


class Proofs:
    """The questions to all peers, and those of all peers."""

    def __init__(self, parts: Parts, head: Callable[[], Seen | None]) -> None:
        """Make it; `head` gives this log's end, signed."""
        self._parts = parts
        self._head = head
        self._turns = Turns()
        self._asked: dict[str, _Asked] = {}
        self._buckets: dict[NodeId, Bucket] = {}

    async def close(self) -> None:
        """Finish what is being answered."""
        await self._turns.close()

    def take(self, link: Link, message: Message) -> bool:
        """Take a question, or the answer to one; False when it is about something else."""
        match message:
            case Proof():
                work = partial(self._answer, link, message)
                self._turns.add(f"proof {link.identity.node_id}", link, work)
                return True
            case ProofAnswer():
                self._settle(link, message.query_id, message)
                return True
            case Failure() if message.about in self._asked:
                # A peer's sentence would pass for this node's own.
                error = by_code(message.code)("the peer did not answer", hint="ask it again")
                self._settle(link, message.about, error)
                return True
            case _:
                return False

    def disconnected(self, link: Link) -> None:
        """A link ended; who waits for an answer over it is told."""
        for query_id, asked in list(self._asked.items()):
            if asked.link is link:
                self._settle(link, query_id, PeerUnreachable("the link ended before the answer"))

    async def ask(self, link: Link, **question: Any) -> ProofAnswer:
        """Ask a peer; the fields are those of `Proof`.

        Raises:
            PeerOutdated: it does not know the question; nothing was sent.
            PeerUnreachable: it went away, or did not answer within `ANSWER_LIMIT_S`.
            CmeshError: it refuses, for the reason of that code.
        """
        name = link.identity.label
        if PROOF not in link.opened.takes:
            software = link.opened.software or "an older version"
            raise PeerOutdated(f"`{name}` runs {software}, which cannot be asked what it holds")
        query_id = secrets.token_urlsafe(16)
        answer: asyncio.Future[ProofAnswer] = asyncio.get_running_loop().create_future()
        self._asked[query_id] = _Asked(link, answer)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await link.send(Proof(query_id=query_id, **question))
                return await answer
        except TimeoutError as error:
            said = f"`{name}` has not answered for {ANSWER_LIMIT_S:g} s"
            raise PeerUnreachable(said) from error
        finally:
            del self._asked[query_id]

    def _settle(self, link: Link, query_id: str, outcome: ProofAnswer | CmeshError) -> None:
        asked = self._asked.get(query_id)
        if asked is None or asked.link is not link or asked.answer.done():
            return
        if isinstance(outcome, CmeshError):
            asked.answer.set_exception(outcome)
        else:
            asked.answer.set_result(outcome)

    async def _answer(self, link: Link, asked: Proof) -> None:
        await asyncio.sleep(self._pause_s(link.identity.node_id))
        try:
            answer = await self._found(link.identity.node_id, asked)
        except CmeshError as error:
            why = "it cannot be answered now"
            link.post(Failure(code=error.code, reason=why, about=asked.query_id))
            return
        link.post(answer)

    async def _found(self, peer_id: NodeId, asked: Proof) -> ProofAnswer:
        store, query_id = self._parts.store, asked.query_id
        if asked.about == "rows":
            return ProofAnswer(query_id=query_id, now=self._head(), rows=await self._rows(asked))
        if asked.about == "end":
            task_id = None if asked.task_id is None else TaskId(asked.task_id)
            end = await store.whole_end(peer_id, task_id) if task_id else None
            return ProofAnswer(query_id=query_id, now=self._head(), end=end)
        page = await store.held(peer_id, asked.after)
        # After the page: the peer may rely on it that all in the page is older.
        return ProofAnswer(
            query_id=query_id, now=self._head(), heads=page.heads, ends=page.ends, next=page.next
        )

    async def _rows(self, asked: Proof) -> tuple[RowNow, ...]:
        store = self._parts.store
        own = {(self._parts.self_id(), self._parts.key.public), *await store.own_keys()}
        now = await store.hashes([head.seq for head in asked.heads])

        def told(head: AskedHead) -> RowNow:
            # INVARIANT: a hash goes only to who has it already, or rows could be guessed by it.
            hashed = now.get(head.seq, "")
            signed = [(key, head_bytes(node_id, head.seq, hashed)) for node_id, key in own]
            known = any(verify(key, message, head.signature) for key, message in signed)
            return RowNow(seq=head.seq, hash=hashed if known else "")

        return tuple(map(told, asked.heads))

    def _pause_s(self, peer_id: NodeId) -> float:
        """Charge a peer for a question; return how long its answer has to wait for that."""
        now = self._parts.clock.monotonic()
        bucket = self._buckets.get(peer_id)
        if bucket is None:
            bucket = Bucket(per_s=ASKED_PER_S, burst=ASKED_BURST, now=now)
            self._buckets[peer_id] = bucket
        return bucket.spend(1, now)
