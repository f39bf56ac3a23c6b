"""Checking the signatures in a store: ends of tasks, and heads of peers' logs.

The chain shows that nothing was changed since it was written; a signature, that the one who
is named did say so. Keys are those in the store: this node's from its rows `node_up`, a
peer's from every decision about it. Only reads.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cmesh.keys import verify
from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.receipts import head_bytes, result_bytes
from cmesh.store import proofs
from cmesh.store.drafts import drafts
from cmesh.store.exchange import Reader
from cmesh.store.records import Finding, ReceiptRecord, TaskSnapshot

__all__ = ["NODE_UP", "EndSignature", "Signed", "check_end", "check_signatures"]

NODE_UP = "node_up"
"""Audit word for this node's id and public key, when it comes up under them."""

BATCH = 200


@dataclass(slots=True)
class Signed:
    """What a check of signatures found.

    Attributes:
        fit: signatures that are their signers'.
        unknown: signatures of signers whose key the store does not hold.
        by_key: those that fit, by their key; `unknown_of`: those that do not, by their signer.
        finding: the first that is not; None = none.
    """

    fit: int = 0
    unknown: int = 0
    finding: Finding | None = None
    by_key: Counter[str] = field(default_factory=Counter[str])
    unknown_of: Counter[NodeId] = field(default_factory=Counter[NodeId])


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSignature:
    """A signature on one task's end; `key` is the one it fits, empty unless it does."""

    by: Literal["worker", "caller"]
    signer: NodeId
    state: Literal["fits", "wrong", "unknown", "missing"]
    key: str = ""


def check_end(cursor: Reader, task_id: TaskId) -> list[EndSignature]:
    """Check both signatures on a task's end; empty where it has none yet."""
    tasks = [draft.snapshot() for draft in drafts(cursor, [task_id])]
    if not tasks or tasks[0].result is None:
        return []
    [task] = tasks
    claims = {claim.by: claim for claim in _of_end(task, task.seq, _Keys(cursor))}
    return [_judged(by, claims.get(by), task) for by in ("worker", "caller")]


def _judged(
    by: Literal["worker", "caller"], claim: "_Claim | None", task: TaskSnapshot
) -> EndSignature:
    if claim is None:
        return EndSignature(by=by, signer=task.record.peer_id, state="missing")
    if not claim.signature:
        return EndSignature(by=by, signer=claim.signer, state="missing")
    if not claim.tries:
        return EndSignature(by=by, signer=claim.signer, state="unknown")
    tries = (key for key, message in claim.tries if verify(key, message, claim.signature))
    key = next(tries, "")
    return EndSignature(by=by, signer=claim.signer, state="fits" if key else "wrong", key=key)


def check_signatures(cursor: Reader, progress: Callable[[int, int], None] | None = None) -> Signed:
    """Check every signature, some thousand a second; stop at the first that does not fit."""
    keys, signed = _Keys(cursor), Signed()
    total, done = proofs.signed_count(cursor), 0
    for claims in _claims(cursor, keys):
        for claim in claims:
            if not claim.tries:
                signed.unknown += 1
                signed.unknown_of[claim.signer] += 1
                continue
            tries = (key for key, message in claim.tries if verify(key, message, claim.signature))
            key = next(tries, None)
            if key is None:
                signed.finding = claim.finding
                return signed
            signed.fit += 1
            signed.by_key[key] += 1
        done += len(claims)
        if progress is not None:
            progress(min(done, total), total)
    return signed


@dataclass(frozen=True, slots=True)
class _Claim:
    """A signature; the keys it may be of, each with what was signed; what it means if it is not."""

    signer: NodeId
    signature: str
    tries: Sequence[tuple[str, bytes]]
    finding: Finding
    by: str = ""


class _Keys:
    def __init__(self, cursor: Reader) -> None:
        self.own = proofs.identities(cursor, NODE_UP)
        self._peers: dict[NodeId, list[str]] = {}
        for peer_id, key in proofs.peer_keys(cursor):
            self._peers.setdefault(peer_id, []).append(key)

    @property
    def self_id(self) -> NodeId:
        return self.own[-1][0] if self.own else NodeId("")

    def of(self, peer_id: NodeId) -> Sequence[str]:
        return self._peers.get(peer_id, [])


def _claims(cursor: Reader, keys: _Keys) -> Iterator[list[_Claim]]:
    after = 0
    while ended := proofs.results_after(cursor, after, BATCH):
        seqs = {task_id: seq for seq, task_id in ended}
        whole = drafts(cursor, list(seqs))
        tasks = [(draft.snapshot(), seqs[draft.record.task_id]) for draft in whole]
        yield [claim for task, seq in tasks for claim in _of_end(task, seq, keys)]
        after = ended[-1][0]
    after = 0
    while heads := proofs.heads_after(cursor, after, BATCH):
        yield [_of_head(seq, receipt, keys) for seq, receipt in heads]
        after = heads[-1][0]


def _of_end(task: TaskSnapshot, seq: int, keys: _Keys) -> Iterator[_Claim]:
    """Yield both signatures on an end; the caller's may not have come to a worker yet."""
    record, inbound = task.record, task.record.direction is Direction.IN
    if task.forgotten:  # what was signed cannot be put together again
        return
    signed = [(own_id, own, _end_bytes(task, own_id)) for own_id, own in keys.own]
    ours = [(own, message) for _, own, message in signed]
    theirs = [(key, message) for _, _, message in signed for key in keys.of(record.peer_id)]
    for who, signature in (("worker", task.worker_signature), ("caller", task.caller_signature)):
        if who == "caller" and inbound and not signature:
            continue
        what = f"the {who}'s signature is not over what is stored"
        finding = Finding(seq=seq, kind="result", task_id=record.task_id, what=what)
        by_us = (who == "worker") is inbound
        signer = keys.self_id if by_us else record.peer_id
        yield _Claim(signer, signature, ours if by_us else theirs, finding, who)


def _of_head(seq: int, receipt: ReceiptRecord, keys: _Keys) -> _Claim:
    message = head_bytes(receipt.peer_id, receipt.head_seq, receipt.head_hash)
    finding = Finding(seq=seq, kind="receipt", what="its signature is not the peer's")
    tries = [(key, message) for key in keys.of(receipt.peer_id)]
    return _Claim(receipt.peer_id, receipt.signature, tries, finding)


def _end_bytes(task: TaskSnapshot, own_id: NodeId) -> bytes:
    record = task.record
    assert task.result is not None
    inbound = record.direction is Direction.IN
    worker, caller = (own_id, record.peer_id) if inbound else (record.peer_id, own_id)
    return result_bytes(
        record.task_id,
        record.payload_hash,
        worker,
        caller,
        outcome_from(task.result),
        task.last_event,
    )
