"""One pairing of this node with another, as its owner has begun it: how it stands, and how it ends.

Pure: the time, by the monotonic clock, is an argument. Which code is right is found out by
`cmesh.protocol.pair_exchange`; here is who may try how often, and for how long.
"""

from dataclasses import dataclass, field
from typing import Literal

from cmesh.model import Identity, NodeId

__all__ = [
    "ATTEMPT_S",
    "CODE_DIGITS",
    "LOCKED_S",
    "PROOFS_MOST",
    "TRIES",
    "Attempt",
    "Locks",
    "Phase",
]

ATTEMPT_S = 600.0
"""How long a pairing lasts that nobody finishes."""

LOCKED_S = 600.0
"""How long a node is refused after too many wrong codes, on both sides."""

TRIES = 3
"""Wrong codes that end a pairing."""

PROOFS_MOST = 5
"""Exchanges in which this side proves a typed code: each is one guess for who stands between.

More than `TRIES`, so that a connection that breaks does not end a pairing.
"""

CODE_DIGITS = 6

Phase = Literal["looking", "showing", "typing", "confirmed", "ended"]


@dataclass(slots=True)
class Attempt:
    """A pairing under way.

    Attributes:
        name, user, shared, router: what its owner was shown of the peer, as whois told it then.
        owner: the process that asked for it; another one may take it over once that is gone.
        code: digits, while this side shows one.
        key: the peer's, once it is confirmed.
        why: how it ended: `expired`, `wrong_codes`, `stopped`, `over_there`, `changed`; empty = it
            has not.
        note: why the peer could not be asked, while that is so.
        answer: what its owner has said here that the peer may ask, once it was asked.
        refused_there: the peer's owner has said that this side may ask for nothing there.
        confirming: the key that is being stored, since its code was right: nothing else ends the
            pairing meanwhile, and no other key is taken; empty = none is.
    """

    peer_id: NodeId
    peer: str
    user: str
    owner: int
    began: float
    name: str = ""
    shared: bool = False
    router: bool = False
    phase: Phase = "looking"
    code: str = ""
    tries: int = TRIES
    proofs: int = 0
    key: str = ""
    why: str = ""
    note: str = ""
    answer: Literal["", "nothing", "rule"] = ""
    refused_there: bool = False
    confirming: str = ""
    _ends: float = field(init=False)

    def __post_init__(self) -> None:
        self._ends = self.began + ATTEMPT_S

    @classmethod
    def of(cls, identity: Identity, *, owner: int, began: float) -> "Attempt":
        """Begin one with a node, and keep what its owner is shown of it."""
        return cls(
            peer_id=identity.node_id,
            peer=identity.label,
            user=_owner(identity),
            owner=owner,
            began=began,
            name=identity.name,
            shared=identity.shared,
            router=identity.router,
        )

    def is_as_shown(self, identity: Identity) -> bool:
        """Say whether the peer is still what its owner was shown: a code is for that alone."""
        now = (identity.node_id, identity.name, _owner(identity), identity.shared, identity.router)
        return now == (self.peer_id, self.name, self.user, self.shared, self.router)

    def left_s(self, now: float) -> float:
        """Return how long it still lasts."""
        return max(0.0, self._ends - now)

    def look(self, now: float) -> Phase:
        """Return how it stands; one whose time is over has ended."""
        if now >= self._ends:
            self.end("expired")
        return self.phase

    def show(self, code: str) -> None:
        """Show a code; one that is shown already stays."""
        if self.phase in ("looking", "typing"):
            self.phase, self.code = "showing", code

    def type(self) -> None:
        """Wait for this side's owner to type the code that the other side shows."""
        if self.phase in ("looking", "showing"):
            self.phase, self.code = "typing", ""

    def takes(self, key: str, now: float) -> bool:
        """Say whether who has proved `key` may try a code here.

        INVARIANT: a code is spent once it has confirmed a key, or is about to. Only the same key
        may prove it again, which it must where the connection broke before it heard the end.
        """
        if self.confirming:
            return bool(self.code) and key == self.confirming
        if self.phase == "confirmed":
            return bool(self.code) and key == self.key and now < self._ends
        return self.look(now) == "showing"

    def wrong(self) -> None:
        """Count a wrong code; the last one ends the pairing."""
        if self.confirming:  # were nothing stored, the code would be shown and count as before
            return
        if self.phase == "confirmed":
            self.code = ""
            return
        self.tries = max(0, self.tries - 1)
        if not self.tries:
            self.end("wrong_codes")

    def may_prove(self, now: float) -> bool:
        """Take one of the exchanges in which a typed code is proved; False = none is left."""
        if self.look(now) != "typing":
            return False
        self.proofs += 1
        if self.proofs > PROOFS_MOST:
            self.end("wrong_codes")
        return self.phase == "typing"

    def confirm(self, key: str) -> None:
        """The peer's key is confirmed, and stored so."""
        self.phase, self.key, self.note = "confirmed", key, ""

    def gives_nothing(self, key: str) -> bool:
        """Say whether who holds `key` may hear that its machine may ask for nothing here."""
        return self.phase == "confirmed" and self.answer == "nothing" and key == self.key

    def end(self, why: str) -> None:
        """End it without a confirmation."""
        if self.phase not in ("confirmed", "ended") and not self.confirming:
            self.phase, self.why, self.code = "ended", why, ""


def _owner(identity: Identity) -> str:
    return identity.user or ", ".join(identity.tags)


class Locks:
    """Nodes that are refused for a while, since too many codes were wrong."""

    def __init__(self) -> None:
        self._until: dict[NodeId, float] = {}

    def add(self, peer_id: NodeId, now: float) -> None:
        """Refuse a node from now on."""
        self._until = {one: until for one, until in self._until.items() if until > now}
        self._until[peer_id] = now + LOCKED_S

    def left_s(self, peer_id: NodeId, now: float) -> float:
        """Return how long a node is still refused; 0 = it is not."""
        return max(0.0, self._until.get(peer_id, now) - now)
