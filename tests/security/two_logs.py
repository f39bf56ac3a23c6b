"""Two machines' state directories with what each holds of the other, and who rewrites one.

The owner of a machine has its files and its key: what he writes anew proves itself. Everything
here is done with real stores, DuckDB files, head files and Ed25519 keys.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from cmesh.daemon.node_id import write_node_id
from cmesh.keys import SigningKey
from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.receipts import head_bytes, result_bytes
from cmesh.store.chain import GENESIS, digest, link
from cmesh.store.head import Head, HeadFile
from cmesh.store.records import (
    AuditRecord,
    ReceiptRecord,
    Record,
    ResultRecord,
    TaskRecord,
    TrustRecord,
)
from cmesh.store.signatures import NODE_UP
from cmesh.store.store import Store
from tests.unit.store.support import FixedClock, decision, event, result, state, task

__all__ = [
    "LAPTOP",
    "NAS",
    "Machine",
    "cut",
    "other_decision",
    "other_end",
    "rechain",
    "two_machines",
]

TABLES = (
    "log", "task_row", "step_row", "event_row", "decision_row", "result_row", "receipt_row",
    "trust_row", "audit_row",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the two; `peer` is the other."""

    name: str
    node_id: NodeId
    seed: bytes

    @property
    def key(self) -> SigningKey:
        return SigningKey(self.seed)

    @property
    def peer(self) -> "Machine":
        return NAS if self == LAPTOP else LAPTOP

    def store(self, base: Path) -> Path:
        return base / self.name / "store"

    def head(self, store: Store) -> ReceiptRecord:
        """Return this log's end, as the peer keeps it."""
        seq, hashed = store.head
        signature = self.key.sign(head_bytes(self.node_id, seq, hashed))
        return ReceiptRecord(
            peer_id=self.node_id,
            peer=f"{self.name}.test",
            kind="head",
            task_id=None,
            head_seq=seq,
            head_hash=hashed,
            signature=signature,
        )


LAPTOP = Machine("laptop", NodeId("nLAPTOP"), bytes([1]) * 32)
NAS = Machine("nas", NodeId("nNAS"), bytes([2]) * 32)


async def two_machines(base: Path, *, tasks: int = 4, by: str = "pair") -> list[TaskId]:
    """Write both state directories: tasks in turn both ways, ends signed, heads exchanged.

    The last end has come to the caller, and its receipt not yet to the worker.
    """
    stores = dict[Machine, Store]()
    for one in (LAPTOP, NAS):
        directory = base / one.name
        directory.mkdir(parents=True, mode=0o700)
        (directory / "key").write_bytes(one.seed)
        (directory / "key").chmod(0o600)
        write_node_id(directory, one.node_id)
        stores[one] = await Store.open(one.store(base), clock=FixedClock(), node=one.name)
        up = AuditRecord(kind=NODE_UP, data={"node_id": one.node_id, "key": one.key.public})
        peer = TrustRecord(
            peer_id=one.peer.node_id,
            peer=f"{one.peer.name}.test",
            key=one.peer.key.public,
            trusted=True,
            by=by,
        )
        await stores[one].commit([up, peer])
    try:
        ids = [await _task(stores, number, last=number == tasks - 1) for number in range(tasks)]
    finally:
        for store in stores.values():
            await store.close()
    return ids


async def _task(stores: Mapping[Machine, Store], number: int, *, last: bool) -> TaskId:
    caller, worker = (NAS, LAPTOP) if number % 2 else (LAPTOP, NAS)
    asked = replace(task(prompt=f"look {number}"), peer=f"{worker.name}.test")
    out = replace(asked, peer_id=worker.node_id)
    inn = replace(
        out, direction=Direction.IN, peer_id=caller.node_id, peer=f"{caller.name}.test", session=""
    )
    await stores[caller].commit([decision(out, "allow"), out, state(out, "sent")])
    await stores[worker].commit([decision(inn, "allow"), inn, state(inn, "running")])
    await stores[worker].commit([event(inn, 1), event(inn, 2)])
    await stores[caller].commit([event(out, 1), event(out, 2)])
    seq, hashed = stores[worker].head
    ended = result(inn, text=f"found {number}").result
    ended = replace(ended, basis={"caller": "me", "head_seq": seq, "head_hash": hashed})
    message = result_bytes(
        inn.task_id, inn.payload_hash, worker.node_id, caller.node_id, outcome_from(ended), 2
    )
    by_worker, by_caller = worker.key.sign(message), caller.key.sign(message)
    await stores[worker].commit([ResultRecord(
        task_id=inn.task_id, direction=inn.direction, result=ended, worker_signature=by_worker
    )])  # fmt: skip
    await stores[caller].commit([ResultRecord(
        task_id=out.task_id, direction=out.direction, result=ended, worker_signature=by_worker,
        caller_signature=by_caller,
    )])  # fmt: skip
    await stores[caller].commit([worker.head(stores[worker])])
    if not last:
        await stores[worker].commit(_acknowledged(inn, by_caller, caller, stores[caller]))
    return out.task_id


def _acknowledged(
    record: TaskRecord, signature: str, caller: Machine, store: Store
) -> Sequence[Record]:
    acknowledged = ReceiptRecord(
        peer_id=caller.node_id,
        peer=f"{caller.name}.test",
        kind="result_ack",
        task_id=record.task_id,
        head_seq=0,
        head_hash="",
        signature=signature,
    )
    return [acknowledged, caller.head(store)]


def cut(store: Path, keep: int) -> None:
    """Take the end of a log away, and let the head file say that it never was."""
    with duckdb.connect(str(store / "store.duckdb")) as db:
        for table in TABLES:
            db.execute(f"DELETE FROM {table} WHERE seq > {keep}")
        [hashed] = db.execute("SELECT h FROM log ORDER BY seq DESC LIMIT 1").fetchall()[0]
    _set_head(store, Head(seq=keep, hash=bytes(hashed)))


def rechain(store: Path, change: Callable[[duckdb.DuckDBPyConnection], Mapping[int, Any]]) -> None:
    """Change rows, then write every hash and the head file anew, so that all fits again.

    `change` alters typed rows and returns, for each row, what of the canonical text to replace.
    """
    with duckdb.connect(str(store / "store.duckdb")) as db:
        replaced = change(db)
        before, last = GENESIS, 0
        rows = db.execute("SELECT seq, canon FROM log ORDER BY seq").fetchall()
        for seq, canon in rows:
            text = canon
            if seq in replaced:
                fields = json.loads(canon) | replaced[seq]
                text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            before, last = link(before, text), seq
            db.execute("UPDATE log SET canon = $1, h = $2 WHERE seq = $3", [text, before, seq])
    _set_head(store, Head(seq=last, hash=before))


def other_decision(db: duckdb.DuckDBPyConnection) -> Mapping[int, Any]:
    """Let the first decision be a denial; nobody else has signed it."""
    [seq] = db.execute("SELECT min(seq) FROM decision_row").fetchall()[0]
    db.execute("UPDATE decision_row SET effect = 'deny' WHERE seq = $1", [seq])
    return {seq: {"effect": "deny"}}


def other_end(
    machine: Machine, task_id: TaskId
) -> Callable[[duckdb.DuckDBPyConnection], Mapping[int, Any]]:
    """Let a task that `machine` worked on have told something else, signed by it anew."""

    def change(db: duckdb.DuckDBPyConnection) -> Mapping[int, Any]:
        seq, salt, basis = db.execute(
            "SELECT seq, salt, basis FROM result_row WHERE task_id = $1", [task_id]
        ).fetchall()[0]
        [hashed] = db.execute(
            "SELECT payload_hash FROM task_row WHERE task_id = $1", [task_id]
        ).fetchall()[0]
        told = result(task(), text="found nothing").result
        told = replace(told, basis=json.loads(basis))
        message = result_bytes(
            task_id, hashed, machine.node_id, machine.peer.node_id, outcome_from(told), 2
        )
        signature = machine.key.sign(message)
        db.execute(
            "UPDATE result_row SET text = $1, worker_signature = $2 WHERE seq = $3",
            [told.text, signature, seq],
        )
        text = digest(salt, "text", told.text)
        signed = digest(salt, "worker_signature", signature)
        return {seq: {"text_sha256": text, "worker_signature_sha256": signed}}

    return change


def _set_head(store: Path, head: Head) -> None:
    (store / "head").unlink()
    file = HeadFile(store)
    file.open()
    file.write(head)
    file.close()
