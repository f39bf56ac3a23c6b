"""One SELECT over the audit of several machines: each runs it itself, this node joins the rows.

Who does not answer is part of the answer, with why. Nothing here waits for one machine longer
than the call's own time, and no machine's silence or rubbish stops another's rows.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uuid_utils

from cmesh.daemon.admission import principal
from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import ASKED_MOST, SqlArguments
from cmesh.daemon.core import Daemon
from cmesh.daemon.fleet_asks import Taken
from cmesh.daemon.fleet_view import NodeState, SqlNodeView
from cmesh.daemon.fleet_words import QUERY_ASKED, QUERY_ENDED, lacks_columns, statement, unite
from cmesh.errors import (
    CmeshError,
    PeerOutdated,
    PeerUnreachable,
    PolicyDenied,
    RemoteProtocolError,
    SecretFound,
    UsageError,
)
from cmesh.link.link import Link
from cmesh.model import Direction, host_label
from cmesh.node.whois import Peer
from cmesh.policy.audit import decide_question
from cmesh.policy.decide import Decision
from cmesh.protocol.features import SQL, SQL_NAMED
from cmesh.protocol.messages import SQL_BYTES, Sql
from cmesh.store.answer import AnswerFiles
from cmesh.store.records import AuditRecord, DecisionRecord, ReceiptRecord, Record, SqlRows

__all__ = ["ALL", "STATES", "Fleet", "require_takes", "sql_message"]

ALL = "all"
"""Stands for every machine whose key is trusted here."""

AWAY_LIMIT_S = 3.0
"""How long a machine that the tailnet calls offline is tried: it may have come back just now."""

ROWS_BYTES = 8 * 1024 * 1024
"""Of all nodes' rows as JSON; each node has an equal share, and what is beyond is cut."""

STATES: dict[str, NodeState] = {
    "policy_denied": "denied",
    "peer_untrusted": "denied",
    "wrong_machine": "denied",
    "key_expired": "denied",
    "identity_unknown": "denied",
    "peer_outdated": "too_old",
    "version_mismatch": "too_old",
    "query_failed": "failed",
    "busy": "over_limit",
    "remote_protocol_error": "bad_answer",
    "peer_unreachable": "offline",
    "link_failed": "offline",
    "not_cmesh": "offline",
    "unknown_peer": "offline",
}
"""How a node stands, by the code of what it answered; `failed` for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A peer that is asked, under the id of its own query."""

    peer: Peer
    query_id: str
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What came of one node: its line in the answer, and its rows when it answered."""

    view: SqlNodeView
    rows: SqlRows | None = None
    receipt: ReceiptRecord | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where files come to, who reads them, and how many bytes of JSON each node's rows may have."""

    directory: Path
    files: AnswerFiles
    share: int


class Fleet:
    """Fleet queries of this node's own callers."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def ask(self, arguments: SqlArguments) -> SqlView:
        """Ask the named peers, and this node; return all rows, and how each node answered.

        Cancelled, it ends the queries on the peers too.

        Raises:
            UsageError: a peer is named twice, or there are too many.
            UnknownPeer: a name means nobody; nothing was asked.
            SecretFound: the statement has a secret in it; nothing was asked.
            DiskFull: there is no room to write down what is asked.
        """
        daemon = self._daemon
        began = daemon.settings.clock.monotonic()
        self._require_clean(arguments)
        await daemon.presence.rising()
        nodes = [self._judged(peer, arguments) for peer in await self._peers(arguments.peers)]
        await self._commit_asked(nodes, arguments)
        async with daemon.store.answer_files() as files:
            place = _Place(daemon.store.incoming, files, share=ROWS_BYTES // (len(nodes) + 1))
            works = [self._heard(node, arguments, place) for node in nodes]
            if arguments.local:
                works.insert(0, self._own(arguments))
            heard = list(await asyncio.gather(*works))
        await self._commit_ended(nodes, heard[1:] if arguments.local else heard)
        answers = [(h.view.node, h.rows) for h in heard if h.rows is not None]
        columns, types, rows = unite(answers)
        return SqlView(
            columns=columns,
            types=types,
            rows=rows,
            truncated=any(one.view.truncated for one in heard) or lacks_columns(answers, columns),
            elapsed_ms=round((daemon.settings.clock.monotonic() - began) * 1000, 3),
            head_seq=daemon.store.head[0],
            nodes=[one.view for one in heard],
        )

    def _require_clean(self, arguments: SqlArguments) -> None:
        redactor = self._daemon.secrets.redactor()
        hits = redactor.text(arguments.sql)[1]
        given = arguments.parameters
        values = given.values() if isinstance(given, dict) else given
        hits += sum(redactor.text(one)[1] for one in values if isinstance(one, str))
        if hits:
            raise SecretFound(
                "nothing was asked: the statement has a secret in it, and peers keep what is asked",
                hint="take it out",
            )

    async def _peers(self, names: Sequence[str]) -> list[Peer]:
        presence = self._daemon.presence
        if list(names) == [ALL]:
            presence.require_up()
            known = await presence.node.peers()
            standing = self._daemon.trust.standing
            found = [one for one in known if standing(one.identity.node_id) != "unknown"]
            found.sort(key=lambda one: one.identity.name)
        elif ALL in names:
            raise UsageError("`all` stands alone", hint=f"say `{ALL}`, or name the peers")
        else:
            found = [await presence.peer(name) for name in names]
        if len(found) > ASKED_MOST:
            raise UsageError(f"{len(found)} peers are more than {ASKED_MOST}", hint="name fewer")
        for name, count in Counter(one.identity.node_id for one in found).items():
            if count > 1:
                raise UsageError(f"`{name}` is named twice", hint="name each peer once")
        return found

    def _judged(self, peer: Peer, arguments: SqlArguments) -> _Node:
        rules = self._daemon.rules
        size = len(arguments.sql.encode("utf-8", "replace"))
        decision = decide_question(peer.identity, rules.policy(), statement_bytes=size)
        decision = rules.honest(decision)
        return _Node(peer=peer, query_id=str(uuid_utils.uuid7()), decision=decision)

    async def _commit_asked(self, nodes: Sequence[_Node], arguments: SqlArguments) -> None:
        """Write down who is asked for what, and by which rule, before a word goes out."""
        rules, policy = self._daemon.rules, self._daemon.rules.policy()
        records: list[Record] = []
        for node in nodes:
            records.append(_decided(node, policy.sha256))
            if node.decision.effect == "allow":
                words = statement(
                    node.query_id,
                    node.peer.node_id,
                    node.peer.identity.name,
                    arguments.sql,
                    config=rules.config(),
                    redactor=self._daemon.secrets.redactor(),
                )
                more = {"limit": arguments.limit, "parameters": len(arguments.parameters)}
                records.append(AuditRecord(kind=QUERY_ASKED, data={**words, **more}))
        await self._daemon.store.commit(records)

    async def _commit_ended(self, nodes: Sequence[_Node], heard: Sequence[_Heard]) -> None:
        records: list[Record] = []
        for node, one in zip(nodes, heard, strict=True):
            if node.decision.effect != "allow":
                continue
            view = one.view
            data = {
                "query": node.query_id,
                "peer_id": node.peer.node_id,
                "peer": node.peer.identity.name,
                "state": view.state,
                "code": view.code,
                "scope": view.scope,
                "rows": view.rows,
                "bytes": view.bytes,
                "head_seq": view.head_seq,
                "ms": round(view.ms),
            }
            records.append(AuditRecord(kind=QUERY_ENDED, data=data))
            if one.receipt is not None:
                records.append(one.receipt)
        await self._daemon.store.commit(records)

    async def _own(self, arguments: SqlArguments) -> _Heard:
        daemon = self._daemon
        began = daemon.settings.clock.monotonic()
        status = daemon.presence.status
        name = host_label(status.name) if status else daemon.rules.config().node.hostname
        view = SqlNodeView(node=name, node_id=daemon.self_id(), state="answered")
        seq, digest = daemon.store.head
        try:
            rows = await daemon.store.sql(arguments.sql, arguments.parameters, arguments.limit)
        except CmeshError as error:
            return _Heard(view=_without(view, error, self._since(began)))
        more = {
            "scope": "all",
            "rows": len(rows.rows),
            "truncated": rows.truncated,
            "head_seq": seq,
            "head_hash": digest,
            "elapsed_ms": rows.elapsed_ms,
            "ms": self._since(began),
        }
        return _Heard(view=view.model_copy(update=more), rows=rows)

    async def _heard(self, node: _Node, arguments: SqlArguments, place: "_Place") -> _Heard:
        """Ask one peer; never raises but when the whole call is cancelled."""
        began = self._daemon.settings.clock.monotonic()
        view = SqlNodeView(node=node.peer.label, node_id=node.peer.node_id, state="answered")
        taken: Taken | None = None
        try:
            async with asyncio.timeout(arguments.timeout_s):
                link = await self._link(node, arguments.timeout_s)
                require_takes(link, node.peer.label, arguments)
                taken = await self._daemon.caller.queries.ask(
                    link, sql_message(node.query_id, arguments), place.directory
                )
            # Not in its own time: the file of another may hold the reader up.
            rows = await place.files.read(taken.path, arguments.limit, place.share)
            return self._answered(node, view, taken, rows, self._since(began))
        except TimeoutError:
            said = f"no answer within {arguments.timeout_s:g} s"
            more = {"state": "timed_out", "code": "timed_out", "reason": said}
            return _Heard(view=view.model_copy(update={**more, "ms": self._since(began)}))
        except CmeshError as error:
            return _Heard(view=_without(view, error, self._since(began)))
        finally:
            if taken is not None:
                taken.path.unlink(missing_ok=True)

    def _answered(
        self, node: _Node, view: SqlNodeView, taken: Taken, rows: SqlRows, ms: float
    ) -> _Heard:
        file = taken.file
        if len(rows.rows) > file.rows:
            error = RemoteProtocolError("the peer's file has more rows than it said")
            return _Heard(view=_without(view, error, ms))
        more = {
            "scope": file.scope,
            "rows": len(rows.rows),
            "bytes": file.bytes,
            "truncated": taken.truncated or rows.truncated,
            "head_seq": file.head_seq,
            "head_hash": file.head_hash,
            "elapsed_ms": file.elapsed_ms,
            "ms": ms,
        }
        receipt = ReceiptRecord(
            peer_id=node.peer.node_id,
            peer=node.peer.identity.name,
            kind="head",
            task_id=None,
            head_seq=file.head_seq,
            head_hash=file.head_hash,
            signature=file.signature,
        )
        return _Heard(view=view.model_copy(update=more), rows=rows, receipt=receipt)

    async def _link(self, node: _Node, limit_s: float) -> Link:
        """Return a link to a peer that answers queries.

        Raises:
            PolicyDenied: this machine's own rules let nothing out to it.
            CmeshError: why there is no link.
        """
        daemon = self._daemon
        if node.decision.effect != "allow":
            raise PolicyDenied(
                f"this machine's own policy: {node.decision.reason}", hint=node.decision.change
            )
        daemon.trust.require_same(node.peer.identity)
        link = daemon.links.get(node.peer.node_id)
        if link is None:
            patience_s = limit_s if node.peer.online else min(limit_s, AWAY_LIMIT_S)
            await daemon.links.attempt(node.peer.node_id, patience_s, unasked=True)
            link = daemon.links.get(node.peer.node_id)
        if link is None:
            why = daemon.links.contact(node.peer.node_id).error
            raise why or PeerUnreachable(f"`{node.peer.label}` did not answer")
        return link

    def _since(self, began: float) -> float:
        return round((self._daemon.settings.clock.monotonic() - began) * 1000, 1)


def require_takes(link: Link, name: str, arguments: SqlArguments) -> None:
    """Raise `PeerOutdated` where the peer's version would not hear the whole question."""
    version = link.opened.software or "an older version"
    if SQL not in link.opened.takes:
        raise PeerOutdated(f"`{name}` runs {version}, which answers no queries")
    if isinstance(arguments.parameters, dict) and SQL_NAMED not in link.opened.takes:
        raise PeerOutdated(
            f"`{name}` runs {version}, which takes no parameters by name",
            hint="give them in order, for `?`",
        )


def sql_message(query_id: str, arguments: SqlArguments) -> Sql:
    """Return a question as it goes to a peer, with its values in order or by name."""
    given = arguments.parameters
    by_name = isinstance(given, dict)
    return Sql(
        query_id=query_id,
        sql=arguments.sql,
        limit=arguments.limit,
        parameters=() if by_name else tuple(given),
        named=given if by_name else {},
        bytes=SQL_BYTES,
    )


def _without(view: SqlNodeView, error: CmeshError, ms: float) -> SqlNodeView:
    state = STATES.get(error.code, "failed")
    more = {"state": state, "code": error.code, "reason": error.message, "hint": error.hint}
    return view.model_copy(update={**more, "ms": ms})


def _decided(node: _Node, policy_sha256: str) -> DecisionRecord:
    identity, decision = node.peer.identity, node.decision
    return DecisionRecord(
        task_id=None,
        direction=Direction.OUT,
        peer_id=identity.node_id,
        peer=identity.name,
        principal=principal(identity),
        operation="sql",
        effect=decision.effect,
        rule=decision.rule,
        reason=decision.reason,
        failed=tuple(asdict(one) for one in decision.failed),
        policy_sha256=policy_sha256,
    )
