"""The audit heads that workers sign for this node: verified, and stored as often as is of use."""

from cmesh.daemon.parts import Parts
from cmesh.errors import RemoteProtocolError
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.model import NodeId
from cmesh.protocol.link_messages import Receipt
from cmesh.protocol.receipts import head_bytes
from cmesh.rate import Bucket
from cmesh.store.records import ReceiptRecord

__all__ = ["Receipts"]

RECEIPTS_PER_S, RECEIPTS_BURST = 10, 100
"""Signed heads of one peer that are stored; a later one says all that an earlier one did."""


class Receipts:
    """The signed heads of all peers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._receipts: dict[NodeId, Bucket] = {}

    async def take(self, link: Link, message: Receipt) -> None:
        """Store a head.

        Raises:
            RemoteProtocolError: it is not signed by the peer.
        """
        peer, now = link.identity, self._parts.clock.monotonic()
        bucket = self._receipts.get(peer.node_id)
        if bucket is None:
            bucket = Bucket(per_s=RECEIPTS_PER_S, burst=RECEIPTS_BURST, now=now)
            self._receipts[peer.node_id] = bucket
        if not bucket.take(1, now):
            return
        signed = head_bytes(peer.node_id, message.head_seq, message.head_hash)
        if not verify(link.opened.key, signed, message.signature):
            raise RemoteProtocolError("the peer's receipt is not signed by it")
        record = ReceiptRecord(
            peer_id=peer.node_id,
            peer=peer.name,
            kind="head",
            task_id=None,
            head_seq=message.head_seq,
            head_hash=message.head_hash,
            signature=message.signature,
        )
        await self._parts.store.commit([record])
