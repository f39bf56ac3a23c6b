"""Audit heads between nodes: this node's own, those of peers, and what they prove.

A peer shows the newest head of this node it holds, which this node has signed itself. A store
that has not that row is a restored copy: it has forgotten tasks, so it takes a new incarnation,
and no caller sends it again what the lost rows may have run.
"""

import logging
from collections.abc import Callable

from cmesh.keys import SigningKey, verify
from cmesh.model import Identity, NodeId
from cmesh.protocol.link_messages import Receipt, Seen
from cmesh.protocol.receipts import head_bytes
from cmesh.store.store import Store

__all__ = ["Heads", "signed_head"]

logger = logging.getLogger(__name__)


def signed_head(store: Store, key: SigningKey, self_id: NodeId) -> Receipt:
    """Return this log's head, signed, so that a peer can say later what it was."""
    seq, digest = store.head
    signature = key.sign(head_bytes(self_id, seq, digest))
    return Receipt(head_seq=seq, head_hash=digest, signature=signature)


class Heads:
    """The heads that go between this node and its peers."""

    def __init__(self, store: Store, key: SigningKey, self_id: Callable[[], NodeId]) -> None:
        self._store = store
        self._key = key
        self._self_id = self_id
        # What peers have shown and the store has: a row, once there, stays.
        self._checked: set[tuple[int, str]] = set()

    def mine(self) -> Receipt:
        """Return this log's head, signed."""
        return signed_head(self._store, self._key, self._self_id())

    def now(self) -> Seen | None:
        """Return this log's head, signed, as part of an answer; None = the log is empty."""
        head = self.mine()
        if head.head_seq < 1:
            return None
        return Seen(head_seq=head.head_seq, head_hash=head.head_hash, signature=head.signature)

    def seen(self, peer_id: NodeId) -> Seen | None:
        """Return the newest audit head of a peer that this node holds."""
        head = self._store.head_of(peer_id)
        if head is None or head.head_seq < 1:
            return None
        return Seen(head_seq=head.head_seq, head_hash=head.head_hash, signature=head.signature)

    async def check(self, identity: Identity, seen: Seen) -> bool:
        """Say whether the store lacks a row it has signed; then its incarnation is a new one.

        Raises:
            StoreError: the rows cannot be read, or the new incarnation not be stored.
        """
        mark = (seen.head_seq, seen.head_hash)
        if mark in self._checked:
            return False
        signed = head_bytes(self._self_id(), seen.head_seq, seen.head_hash)
        # One made under an earlier node id proves nothing about this one.
        if not verify(self._key.public, signed, seen.signature):
            return False
        if await self._store.has_row(*mark):
            self._checked.add(mark)
            return False
        why = {"peer_id": identity.node_id, "peer": identity.name, "head_seq": seen.head_seq}
        logger.warning("store_restored", extra={"data": why})
        await self._store.renew(why)
        # The peer shows it until it holds a newer one; that is no second restore.
        self._checked.add(mark)
        return True
