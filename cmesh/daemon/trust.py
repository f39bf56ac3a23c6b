"""Which cmesh key belongs to which node, and who said so.

whois says which node a connection comes from; the pin says which cmesh it is.
A new node, or a known one with another key, waits for this machine's owner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cmesh.errors import CmeshError, PeerUntrusted, UnknownPeer, WrongMachine
from cmesh.keys import fingerprint
from cmesh.model import Identity, NodeId, host_label
from cmesh.nearest import did_you_mean
from cmesh.store.records import AuditRecord, TrustRecord
from cmesh.store.store import Store

__all__ = ["BY_CODE", "BY_OWNER", "BY_USE", "Standing", "Trust", "taken_back"]

BY_USE, BY_OWNER, BY_CODE = "delegate", "owner", "pair"
"""Who has said that a key is the right one: nobody, since it was pinned when this machine first
asked for something; its owner, after a look at the fingerprint; a person at both machines, by a
code that could only be right for both keys."""

Standing = Literal["trusted", "waiting", "changed", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A key that a peer has proved, and that nobody has confirmed yet."""

    peer: str
    key: str


class Trust:
    """The pins, in memory as in the store; `changed` is called after each change of how a node stands."""

    def __init__(self, store: Store, changed: Callable[[], None] | None = None) -> None:
        self._store = store
        self._changed = changed or _nobody
        self._pins: dict[NodeId, TrustRecord] = {}
        self._shown: dict[NodeId, _Shown] = {}
        self._taken_back: dict[NodeId, str] = {}

    async def load(self) -> None:
        """Read the pins."""
        records = await self._store.trust()
        self._pins = {pin.peer_id: pin for pin in records if pin.trusted}
        self._taken_back = {pin.peer_id: pin.key for pin in records if not pin.trusted}

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

    def shown(self) -> tuple[tuple[NodeId, str], ...]:
        """Return who has shown a key that waits for a look, and which."""
        return tuple(sorted((node_id, one.key) for node_id, one in self._shown.items()))

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
        if not repeated:
            self._changed()
        new = pin is None and identity.node_id not in self._taken_back
        # INVARIANT: what the owner took back only the owner gives again, whoever asks for what.
        if new and first_contact and not identity.ephemeral:
            await self.pin(identity.node_id, by=BY_USE)
            return
        if not repeated:  # it knocks until it is let in; one row tells of it
            await self._store.commit([self._contact(identity, key)])
        name = identity.label
        if self._taken_back.get(identity.node_id) == key:
            raise taken_back(name)
        what = (
            "is a first contact" if pin is None else "shows another cmesh key than the pinned one"
        )
        raise PeerUntrusted(
            f"`{name}` {what}; its fingerprint is `{fingerprint(key)}`",
            hint=f"run `cmesh pair {name}` here and `cmesh pair` there; or compare it with"
            f" `cmesh status` there, then `cmesh peers trust {name}`",
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
            raise WrongMachine(
                f"its fingerprint is `{known}`, not `{expected}`",
                hint="read `fingerprint` of `cmesh status` on that machine itself; where that is"
                f" `{expected}`, another program answers under its name: do not trust it",
            )
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
        self._taken_back.pop(node_id, None)
        self._changed()

    async def confirm(self, identity: Identity, key: str) -> None:
        """Pin a key that persons at both machines have confirmed by a code; harmless when it is.

        Raises:
            StoreError: nothing was stored.
        """
        pin = self._pins.get(identity.node_id)
        if pin is None or (pin.key, pin.by, pin.peer) != (key, BY_CODE, identity.name):
            pin = TrustRecord(
                peer_id=identity.node_id, peer=identity.name, key=key, trusted=True, by=BY_CODE
            )
            await self._store.commit([pin])
        self._pins[identity.node_id] = pin
        self._shown.pop(identity.node_id, None)
        self._taken_back.pop(identity.node_id, None)
        self._changed()

    def is_by_code(self, node_id: NodeId, key: str) -> bool:
        """Say whether `key` is pinned, and was confirmed by a code."""
        pin = self._pins.get(node_id)
        return pin is not None and (pin.key, pin.by) == (key, BY_CODE)

    def confirmed_by(self, node_id: NodeId) -> str:
        """Return who has confirmed the pinned key, as `BY_USE` and the others; empty = no pin."""
        pin = self._pins.get(node_id)
        return "" if pin is None else pin.by

    async def take_back(self, name: str) -> TrustRecord:
        """Forget the pinned key of a peer, by label, full name or node id; return the pin.

        Raises:
            UnknownPeer: no such peer is trusted, or several are.
        """
        found = [pin for pin in self._pins.values() if name in _names(pin)]
        exact = [pin for pin in found if name != _label(pin)] or found
        if len(exact) != 1:
            raise self._not_one(name, exact)
        pin = exact[0]
        await self._store.commit([replace(pin, trusted=False, by=BY_OWNER)])
        self._pins.pop(pin.peer_id, None)
        self._shown.pop(pin.peer_id, None)
        self._taken_back[pin.peer_id] = pin.key
        self._changed()
        return pin

    def require_pinned(self, identity: Identity) -> None:
        """Refuse a node whose key is not pinned any more.

        Raises:
            PeerUntrusted: it is not.
        """
        if identity.node_id not in self._pins:
            raise taken_back(_label(identity))

    def _not_one(self, name: str, found: Sequence[TrustRecord]) -> UnknownPeer:
        if found:
            ids = "` or `".join(pin.peer_id for pin in found)
            return UnknownPeer(f"`{name}` means more than one peer", hint=f"name `{ids}`")
        labels = sorted({_label(pin) for pin in self._pins.values()})
        return UnknownPeer(
            f"no trusted peer is named `{name}`",
            hint=did_you_mean(name, labels) or "run `cmesh peers`",
        )

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


def taken_back(name: str) -> PeerUntrusted:
    """Return what a peer is told whose key is trusted no more."""
    return PeerUntrusted(
        f"the key of `{name}` is not trusted any more",
        hint=f"its owner may look again: `cmesh peers trust {name}`",
    )


def _label(of: TrustRecord | Identity) -> str:
    name = of.peer if isinstance(of, TrustRecord) else of.name
    return host_label(name)


def _names(pin: TrustRecord) -> set[str]:
    return {_label(pin), pin.peer, str(pin.peer_id)}


def _nobody() -> None:
    """Tell nobody."""
