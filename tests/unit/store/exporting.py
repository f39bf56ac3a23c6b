"""Stores to export, each with its node's key and rows that a peer would have signed."""

from collections.abc import Sequence
from pathlib import Path

from cmesh.keys import SigningKey
from cmesh.model import NodeId
from cmesh.protocol.receipts import head_bytes
from cmesh.store.records import AuditRecord, ReceiptRecord, Record, TrustRecord
from cmesh.store.signatures import NODE_UP
from cmesh.store.store import Store
from tests.unit.store.support import FixedClock


class Node:
    """A state directory with a key; `fill` opens its store and commits."""

    def __init__(self, state: Path, name: str) -> None:
        state.mkdir(mode=0o700, exist_ok=True)
        self.state = state
        self.name = name
        self.id = NodeId(f"n{name}")
        self.key = SigningKey.load_or_make(state / "key")
        self.head = (0, "")

    async def fill(self, records: Sequence[Record], clock: FixedClock) -> None:
        store = await Store.open(self.state / "store", clock=clock, node=self.name)
        try:
            if store.head[0] <= 1:
                data = {"node_id": self.id, "key": self.key.public}
                await store.commit([AuditRecord(kind=NODE_UP, data=data)])
            await store.commit(records)
            self.head = store.head
        finally:
            await store.close()

    def trusts(self, other: "Node", by: str) -> TrustRecord:
        return TrustRecord(
            peer_id=other.id, peer=other.name, key=other.key.public, trusted=True, by=by
        )

    def holds_head_of(self, other: "Node", seq: int, digest: str) -> ReceiptRecord:
        signature = other.key.sign(head_bytes(other.id, seq, digest))
        return ReceiptRecord(
            peer_id=other.id,
            peer=other.name,
            kind="head",
            task_id=None,
            head_seq=seq,
            head_hash=digest,
            signature=signature,
        )
