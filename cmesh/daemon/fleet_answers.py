"""Queries of peers, answered: decided by this node's rules, run confined, sent as one file.

An answer is Parquet in a file of its own, made in the query process, and is gone when it was
sent. Nothing of it is in this process's memory but the piece that is on its way.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmesh.daemon.admission import principal
from cmesh.daemon.fleet_words import QUERY_ANSWERED, QUERY_RECEIVED, statement
from cmesh.daemon.heads import signed_head
from cmesh.daemon.parts import Parts
from cmesh.errors import CmeshError, LinkError, PolicyDenied, QueryRefused, QueueFull
from cmesh.link.link import Link
from cmesh.link.tailnet import GOING_AWAY
from cmesh.model import Direction, Identity, NodeId, Operation, TaskId
from cmesh.policy.audit import Scope, decide_answer
from cmesh.policy.decide import Decision
from cmesh.policy.explain import for_remote
from cmesh.protocol.codec import CHUNK_BYTES, encode_chunk
from cmesh.protocol.link_messages import Receipt
from cmesh.protocol.messages import SQL_BYTES, Sql, SqlAnswer, SqlFile
from cmesh.store.answer import Answer, Question
from cmesh.store.records import AuditRecord, DecisionRecord

__all__ = ["FleetAnswers"]

logger = logging.getLogger(__name__)

OPEN_MOST = 4
"""Queries of one link that run, wait or are on their way; more are refused."""

REASON_CHARACTERS = 1_000

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    answer: Answer
    scope: Scope
    head: Receipt


class FleetAnswers:
    """The queries of all links."""

    def __init__(self, parts: Parts, fine: Callable[[NodeId], None]) -> None:
        """Make it; `fine` charges a peer for a query that was denied."""
        self._parts = parts
        self._fine = fine
        self._open: dict[Link, dict[str, asyncio.Task[None]]] = {}

    def take(self, link: Link, message: Sql) -> None:
        """Begin to answer a query; too many of a link are refused without a row."""
        query_id, queries = message.query_id, self._open.get(link, {})
        if not _ID.fullmatch(query_id) or query_id in queries:
            why: CmeshError = QueryRefused("a query needs an id of its own, a UUIDv7")
            link.post(_refusal(query_id, why))
            return
        if len(queries) >= OPEN_MOST:
            link.post(_refusal(query_id, QueueFull(f"{OPEN_MOST} queries of yours are open here")))
            return
        if link.ended:
            return
        task = asyncio.create_task(self._serve(link, message))
        self._open.setdefault(link, {})[query_id] = task
        task.add_done_callback(lambda _done: self._forget(link, query_id))

    def cancel(self, link: Link, query_id: str) -> None:
        """End a query that nobody waits for any more; harmless when it has ended."""
        task = self._open.get(link, {}).get(query_id)
        if task is not None:
            task.cancel()

    def drop(self, link: Link) -> None:
        """End the queries of a link that has ended."""
        for task in self._open.get(link, {}).values():
            task.cancel()

    async def close(self) -> None:
        """End all."""
        tasks = [task for queries in self._open.values() for task in queries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, link: Link, message: Sql) -> None:
        path = self._parts.store.answer_path(message.query_id)
        try:
            await self._answer(link, message, path)
        except LinkError:
            return  # who asked is gone
        except Exception:  # the edge of one query: silence would look like waiting
            logger.exception("query_unanswered", extra={"data": {"peer": link.identity.name}})
            await link.close(GOING_AWAY, "query_failed")
        finally:
            path.unlink(missing_ok=True)

    async def _answer(self, link: Link, message: Sql, path: Path) -> None:
        peer = link.identity
        try:
            made = await self._made(link, message, path)
        except CmeshError as error:
            data = {"state": "refused", "code": error.code, "reason": error.message}
            await self._note(message, peer, data)
            link.post(_refusal(message.query_id, error))
            return
        except asyncio.CancelledError:
            # INVARIANT: who asked, and that it was ended, stands in the log all the same.
            await asyncio.shield(self._note(message, peer, {"state": "cancelled"}))
            raise
        found = made.answer
        data = {
            "state": "answered",
            "scope": made.scope,
            "rows": found.rows,
            "bytes": found.bytes,
            "truncated": found.truncated,
            "elapsed_ms": round(found.elapsed_ms),
            "sha256": found.sha256,
        }
        await self._note(message, peer, data)  # before a byte goes out
        file = SqlFile(
            sha256=found.sha256,
            bytes=found.bytes,
            rows=found.rows,
            scope=made.scope,
            elapsed_ms=found.elapsed_ms,
            head_seq=made.head.head_seq,
            head_hash=made.head.head_hash,
            signature=made.head.signature,
        )
        link.post(SqlAnswer(query_id=message.query_id, truncated=found.truncated, file=file))
        await _send(link, message.query_id, path, found)

    async def _made(self, link: Link, message: Sql, path: Path) -> _Made:
        """Decide, write that down, run.

        Raises:
            PolicyDenied: no rule allows it; says what the asker may know.
            QueryRefused: the SQL is wrong, or a limit was reached.
        """
        parts, peer = self._parts, link.identity
        policy = parts.rules.policy()  # of a file that cannot be used: none, so it is denied
        # Who it is now: a tag or a user may have changed since the link was made.
        identity = await parts.identify(peer.node_id)
        decision, scope, operation = decide_answer(identity, parts.self_id(), policy)
        words = statement(
            message.query_id,
            peer.node_id,
            peer.name,
            message.sql,
            config=parts.rules.config(),
            redactor=parts.redactor(),
        )
        bound = len(message.parameters) + len(message.named)
        received = {**words, "limit": message.limit, "parameters": bound}
        await parts.store.commit(
            [
                _record(identity, decision, operation, policy.sha256),
                AuditRecord(kind=QUERY_RECEIVED, data=received),
            ]
        )
        if decision.effect != "allow":
            self._fine(peer.node_id)
            told = for_remote(decision)
            raise PolicyDenied(told.reason, hint=told.change)
        head = signed_head(parts.store, parts.key, parts.self_id())
        question = Question(
            text=message.sql,
            parameters=message.named or message.parameters,
            limit=message.limit,
            most_bytes=message.bytes or SQL_BYTES,
            asker=peer.node_id,
            own=scope == "own",
        )
        answer = await parts.store.answer(question, path)
        await self._require_still(peer, scope)
        return _Made(answer=answer, scope=scope, head=head)

    async def _require_still(self, peer: Identity, scope: Scope) -> None:
        """Refuse rows that may not be seen any more: they waited for their turn and were made."""
        parts = self._parts
        identity = await parts.identify(peer.node_id)
        decision, now, _operation = decide_answer(identity, parts.self_id(), parts.rules.policy())
        if decision.effect != "allow" or (scope, now) == ("all", "own"):
            raise PolicyDenied("the rule that let you see these rows was taken back meanwhile")

    async def _note(self, message: Sql, peer: Identity, data: Mapping[str, object]) -> None:
        named = {"query": message.query_id, "peer_id": peer.node_id, "peer": peer.name}
        await self._parts.store.commit([AuditRecord(kind=QUERY_ANSWERED, data={**named, **data})])

    def _forget(self, link: Link, query_id: str) -> None:
        queries = self._open.get(link, {})
        queries.pop(query_id, None)
        if not queries:
            self._open.pop(link, None)


async def _send(link: Link, query_id: str, path: Path, answer: Answer) -> None:
    offset = 0
    with path.open("rb") as file:
        while offset < answer.bytes:
            data = await asyncio.to_thread(file.read, CHUNK_BYTES)
            final = offset + len(data) >= answer.bytes
            await link.send(
                encode_chunk(TaskId(query_id), answer.sha256, offset, data, final=final)
            )
            offset += len(data)


def _refusal(query_id: str, error: CmeshError) -> SqlAnswer:
    """Return what the asker is told: its own mistakes whole, of this machine's troubles the code."""
    if not isinstance(error, PolicyDenied | QueryRefused | QueueFull):
        reason = "the query could not be run; the other machine's log says why"
        return SqlAnswer(query_id=query_id, code=error.code, reason=reason)
    hint = error.hint if error.hint != error.default_hint else ""
    return SqlAnswer(
        query_id=query_id,
        code=error.code,
        reason=error.message[:REASON_CHARACTERS],
        change=hint[:REASON_CHARACTERS],
    )


def _record(
    identity: Identity, decision: Decision, operation: Operation, policy_sha256: str
) -> DecisionRecord:
    return DecisionRecord(
        task_id=None,
        direction=Direction.IN,
        peer_id=identity.node_id,
        peer=identity.name,
        principal=principal(identity),
        operation=operation.value,
        effect=decision.effect,
        rule=decision.rule,
        reason=decision.reason,
        failed=tuple(
            {"rule": one.rule, "condition": one.condition, "wanted": one.wanted, "got": one.got}
            for one in decision.failed
        ),
        policy_sha256=policy_sha256,
    )
