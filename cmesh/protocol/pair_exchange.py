"""One connection of a pairing as a state machine: keys, then a code, proved without being sent.

Sans-IO: frames in, events and frames out; nonce and chance are given. The code runs through SPAKE2
(RFC 9382 has the idea; the library `spake2` the form), whose identities hold both node ids, both
keys and both nonces: who stands between two nodes has one guess in each exchange and learns
nothing else. Who has how many guesses is not decided here.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import spake2
from typing_extensions import override

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.model import NodeId
from cmesh.protocol.fields import WireMessage
from cmesh.protocol.pair_messages import (
    PAIR_SUBPROTOCOL,
    Here,
    PairChallenge,
    PairElement,
    PairHello,
    PairMessage,
    PairProof,
    PairRefused,
    PairStanding,
    PairTry,
    decode_pair,
    encode_pair,
)
from cmesh.protocol.receipts import canonical
from cmesh.text import one_line

__all__ = [
    "Asked",
    "Knocked",
    "Met",
    "PairSide",
    "Proved",
    "Refusal",
    "Shower",
    "Signer",
    "Typist",
    "context_bytes",
]

PairSide = Literal["shows", "types"]

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """This node's part: who it is, and what it can do with keys.

    Attributes:
        key: the public cmesh key, 43 characters of base64url.
        verify: says whether a signature (key, bytes, signature) holds.
        entropy: `os.urandom`, or what a test gives.
    """

    node_id: NodeId
    key: str
    sign: Callable[[bytes], str]
    verify: Callable[[str, bytes, str], bool]
    entropy: Entropy


@dataclass(frozen=True, slots=True)
class Knocked:
    """The typing side has proved that it holds `key`; `stand` answers."""

    key: str
    looking: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """The typing side tries a code; `answer` goes on, with the code that is shown here."""


@dataclass(frozen=True, slots=True)
class Proved:
    """The other side has the same code, keys and nodes. `right` false: it has not."""

    right: bool


@dataclass(frozen=True, slots=True)
class Met:
    """The showing side has proved that it holds `key`, and says how its pairing stands."""

    key: str
    here: Here
    tries: int
    gives_nothing: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The showing side did not confirm."""

    why: str
    tries: int


Event = Knocked | Asked | Proved | Met | Refusal


def context_bytes(
    side: PairSide, dialler: NodeId, acceptor: NodeId, nonces: tuple[str, str], key: str
) -> bytes:
    """Return what `side` signs: node ids as whois gave them, both nonces, its own key.

    INVARIANT: these bytes never change for a released version; vectors guard them.
    """
    fields: dict[str, object] = {
        "protocol": PAIR_SUBPROTOCOL,
        "dialler": dialler,
        "acceptor": acceptor,
        "nonces": list(nonces),
        "key": key,
    }
    return canonical(f"pair {side}", fields)


class _Exchange:
    """What both sides share: keys proved, then the same secret from the same code."""

    side: PairSide
    other: PairSide

    def __init__(self, own: Signer, peer_id: NodeId, nonce: str) -> None:
        """Make it; `nonce` is fresh (22 to 64 characters), `peer_id` from whois."""
        self._own = own
        self._peer_id = peer_id
        self._nonce = nonce
        self._peer_key = ""
        self._nonces = ("", "")
        self._spake: Any = None  # the library has no types
        self._secret = b""
        self._out: list[str] = []
        self._awaits: tuple[type[WireMessage], ...] = ()

    def outgoing(self) -> list[str]:
        """Return, once, the frames that what was received calls for."""
        frames, self._out = self._out, []
        return frames

    def receive(self, frame: str | bytes) -> list[Event]:
        """Take a frame.

        Raises:
            RemoteProtocolError: it may not come now, or proves nothing.
        """
        message = decode_pair(frame)
        if not isinstance(message, self._awaits):
            raise RemoteProtocolError(f"the peer sent a `{message.type}` where none may come")
        self._awaits = ()
        return self._take(message)

    def _take(self, message: PairMessage) -> list[Event]:
        raise NotImplementedError

    def _ends(self) -> tuple[NodeId, NodeId]:
        """Return the node ids of the dialling and of the accepting side."""
        ids = (self._own.node_id, self._peer_id)
        return ids if self.side == "types" else (ids[1], ids[0])

    def _signature(self) -> str:
        ends = self._ends()
        return self._own.sign(context_bytes(self.side, *ends, self._nonces, self._own.key))

    def _check(self, claimed: str, key: str, signature: str) -> None:
        if claimed != self._peer_id:
            raise RemoteProtocolError(
                f"the peer says it is node `{one_line(claimed, 60)}`, the tailnet says"
                f" `{self._peer_id}`"
            )
        signed = context_bytes(self.other, *self._ends(), self._nonces, key)
        if not self._own.verify(key, signed, signature):
            raise RemoteProtocolError("the peer could not prove its cmesh key")
        self._peer_key = key

    def _begin(self, code: str) -> str:
        """Start the exchange over a code; return this side's element."""
        keys = {self.side: self._own.key, self.other: self._peer_key}
        dialler, acceptor = self._ends()
        names = {
            role: context_bytes(role, dialler, acceptor, self._nonces, keys[role])
            for role in ("shows", "types")
        }
        make = spake2.SPAKE2_A if self.side == "shows" else spake2.SPAKE2_B
        self._spake = make(
            code.encode(), idA=names["shows"], idB=names["types"], entropy_f=self._own.entropy
        )
        return cast("bytes", self._spake.start()).hex()

    def _finish(self, element: str) -> None:
        try:
            self._secret = cast("bytes", self._spake.finish(bytes.fromhex(element)))
        except (spake2.SPAKEError, ValueError, AssertionError) as error:
            raise RemoteProtocolError("the peer sent no element of the group") from error

    def _proof(self, side: PairSide) -> str:
        return hmac.new(self._secret, f"cmesh pair {side}".encode(), hashlib.sha256).hexdigest()

    def _proved(self, message: PairProof) -> bool:
        return hmac.compare_digest(message.proof, self._proof(self.other))


class Shower(_Exchange):
    """The accepting side, whose owner reads a code from the screen."""

    side = "shows"
    other = "types"

    def __init__(self, own: Signer, peer_id: NodeId, nonce: str) -> None:
        """Make it, as `_Exchange`."""
        super().__init__(own, peer_id, nonce)
        self._element = ""

    def initial(self) -> list[str]:
        """Return the frames to send as soon as the connection is there."""
        self._awaits = (PairHello,)
        return [encode_pair(PairChallenge(node=self._own.node_id, nonce=self._nonce))]

    def stand(self, here: Here, tries: int, *, gives_nothing: bool = False) -> str:
        """Return the answer to `Knocked`."""
        self._require(self._peer_key)
        if here in ("showing", "confirmed"):
            self._awaits = (PairTry,)
        return encode_pair(
            PairStanding(
                key=self._own.key,
                signature=self._signature(),
                here=here,
                tries=tries,
                gives_nothing=gives_nothing or None,
            )
        )

    def answer(self, code: str) -> str:
        """Return the answer to `Asked`: this side's half over the code that is shown."""
        self._require(self._element)
        frame = encode_pair(PairElement(element=self._begin(code)))
        self._finish(self._element)
        self._awaits = (PairProof,)
        return frame

    def confirm(self) -> str:
        """Return the answer to a right `Proved`, once the peer's key is committed as confirmed."""
        self._require(self._secret)
        return encode_pair(PairProof(proof=self._proof(self.side)))

    def refuse(self, why: str, tries: int) -> str:
        """Return the frame that ends the exchange."""
        return encode_pair(PairRefused(why=why, tries=tries))

    @override
    def _take(self, message: PairMessage) -> list[Event]:
        if isinstance(message, PairHello):
            self._nonces = (message.nonce, self._nonce)
            self._check(message.node, message.key, message.signature)
            return [Knocked(message.key, message.looking)]
        if isinstance(message, PairTry):
            self._element = message.element
            return [Asked()]
        assert isinstance(message, PairProof)
        return [Proved(self._proved(message))]

    def _require(self, before: object) -> None:
        if not before:
            raise LocalProtocolError("a pairing's frame was asked for before its turn")


class Typist(_Exchange):
    """The dialling side, whose owner types the code."""

    side = "types"
    other = "shows"

    def __init__(self, own: Signer, peer_id: NodeId, nonce: str, *, looking: bool) -> None:
        """Make it; `looking`: this side does not know yet which of both shows a code."""
        super().__init__(own, peer_id, nonce)
        self._looking = looking
        self._awaits = (PairChallenge,)

    def attempt(self, code: str) -> str:
        """Return this side's half over the typed code; after `Met`, once."""
        if not self._peer_key or self._spake is not None:
            raise LocalProtocolError(
                "a code is tried once, after the other side has proved its key"
            )
        self._awaits = (PairElement, PairRefused)
        return encode_pair(PairTry(element=self._begin(code)))

    @override
    def _take(self, message: PairMessage) -> list[Event]:
        if isinstance(message, PairChallenge):
            self._challenged(message)
            return []
        if isinstance(message, PairStanding):
            self._check(self._peer_id, message.key, message.signature)
            nothing = message.gives_nothing is True
            return [Met(message.key, message.here, message.tries, nothing)]
        if isinstance(message, PairElement):
            self._finish(message.element)
            self._out.append(encode_pair(PairProof(proof=self._proof(self.side))))
            self._awaits = (PairProof, PairRefused)
            return []
        if isinstance(message, PairRefused):
            return [Refusal(message.why, message.tries)]
        assert isinstance(message, PairProof)
        return [Proved(self._proved(message))]

    def _challenged(self, message: PairChallenge) -> None:
        if message.node != self._peer_id:
            raise RemoteProtocolError(
                f"the peer says it is node `{one_line(message.node, 60)}`, the tailnet says"
                f" `{self._peer_id}`"
            )
        self._nonces = (self._nonce, message.nonce)
        hello = PairHello(
            node=self._own.node_id,
            key=self._own.key,
            nonce=self._nonce,
            signature=self._signature(),
            looking=self._looking,
        )
        self._out.append(encode_pair(hello))
        self._awaits = (PairStanding,)
