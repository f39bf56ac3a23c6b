"""Which cmesh key belongs to which node, and who said so.

whois says which node a connection comes from; the pin says which cmesh it is.
A new node, or a known one with another key, waits for this machine's owner.
"""

from dataclasses import dataclass
from typing import Literal

from cmesh.errors import CmeshError, PeerUntrusted, UnknownPeer, WrongMachine
from cmesh.keys import fingerprint
from cmesh.model import Identity, NodeId
from cmesh.store.records import AuditRecord, TrustRecord
from cmesh.store.store import Store

__all__ = ["Standing", "Trust"]

Standing = Literal["trusted", "waiting", "changed", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A key that a peer has proved, and that nobody has confirmed yet."""

    peer: str
    key: str


class Trust:
    """The pins, in memory as in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pins: dict[NodeId, TrustRecord] = {}
        self._shown: dict[NodeId, _Shown] = {}

    async def load(self) -> None:
        """Read the pins."""
        self._pins = {pin.peer_id: pin for pin in await self._store.trust() if pin.trusted}

    def standing(self, node_id: NodeId) -> Standing:
        """Say how a node stands: its last proved key is the pinned one, or is not."""
        pin, shown = self._pins.get(node_id), self._shown.get(node_id)
        if shown is not None and (pin is None or pin.key != shown.key):
            return "waiting" if pin is None else "changed"
        return "trusted" if pin is not None else "unknown"

    def fingerprint(self, node_id: NodeId) -> str:
        """Return the fingerprint of the key in question: the shown one, else the pinned."""
        shown = self._shown.get(node_id)
        known = shown.key if shown else getattr(self._pins.get(node_id), "key", "")
        return fingerprint(known) if known else ""

    async def check(self, identity: Identity, key: str, *, first_contact: bool) -> None:
        """Compare a proved key with the pin.

        Args:
            identity: who whois says it is.
            key: the key whose possession the peer has just proved.
            first_contact: this machine has asked the peer for something, so a node
                without a pin gets one now.

        Raises:
            PeerUntrusted: the owner of this machine must look at it first.
        """
        pin = self._pins.get(identity.node_id)
        if pin is not None and pin.key == key:
            self._shown.pop(identity.node_id, None)
            return
        shown = _Shown(peer=identity.name, key=key)
        repeated = self._shown.get(identity.node_id) == shown
        self._shown[identity.node_id] = shown
        if pin is None and first_contact and not identity.ephemeral:
            await self.pin(identity.node_id, by="delegate")
            return
        if not repeated:  # it knocks until it is let in; one row tells of it
            await self._store.commit([self._contact(identity, key)])
        changed = pin is not None
        what = "shows another cmesh key than the pinned one" if changed else "is a first contact"
        name = identity.name.partition(".")[0]
        raise PeerUntrusted(
            f"`{name}` {what}; its fingerprint is `{fingerprint(key)}`",
            hint=f"compare it with `cmesh status` there, then `cmesh peers trust {name}` here",
        )

    def _contact(self, identity: Identity, key: str) -> AuditRecord:
        data = {
            "peer_id": identity.node_id,
            "peer": identity.name,
            "standing": self.standing(identity.node_id),
            "fingerprint": fingerprint(key),
        }
        return AuditRecord(kind="contact", data=data)

    async def pin(self, node_id: NodeId, *, by: str, expected: str = "") -> None:
        """Pin the key a node has shown.

        Raises:
            UnknownPeer: the node has shown no key yet.
            WrongMachine: `expected` is another fingerprint than the shown key's.
        """
        shown = self._shown.get(node_id)
        known = self.fingerprint(node_id)
        if known and expected and expected.replace(" ", "") != known.replace(" ", ""):
            raise WrongMachine(f"its fingerprint is `{known}`, not `{expected}`")
        if shown is None:
            if node_id in self._pins:
                return
            raise UnknownPeer(
                "that node has not shown a cmesh key yet",
                hint="let it contact this machine once, for example by `cmesh delegate` there",
            )
        record = TrustRecord(peer_id=node_id, peer=shown.peer, key=shown.key, trusted=True, by=by)
        await self._store.commit([record])
        self._pins[node_id] = record
        self._shown.pop(node_id, None)

    def require_same(self, identity: Identity) -> None:
        """Refuse a name that was pinned to another node.

        Raises:
            WrongMachine: the name now belongs to another node than the pinned one.
        """
        for pin in self._pins.values():
            if pin.peer == identity.name and pin.peer_id != identity.node_id:
                if identity.node_id in self._pins:
                    return
                raise _wrong_machine(identity, pin)


def _wrong_machine(identity: Identity, pin: TrustRecord) -> CmeshError:
    return WrongMachine(
        f"`{identity.name}` was node `{pin.peer_id}`, and is now `{identity.node_id}`"
    )
