"""What the handshake signs, and which minor version two nodes speak.

Pure. The order of its frames is `cmesh.protocol.session`; trust in a key is the daemon's.
"""

from dataclasses import dataclass
from typing import Literal

from cmesh.errors import VersionMismatch
from cmesh.model import NodeId
from cmesh.protocol.features import TAKES
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.messages import MINOR, MINOR_MINIMUM, SUBPROTOCOL
from cmesh.protocol.receipts import canonical

__all__ = ["Local", "Side", "Transcript", "common_minor", "hello_bytes"]

Side = Literal["dialler", "acceptor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This node, as it introduces itself.

    Attributes:
        incarnation: of the store; new after a restore.
        key: the public cmesh key, 43 characters of base64url.
        seen: the peer's newest audit head that this node holds.
        takes: fields of a task that came later, and that it knows.
    """

    node_id: NodeId
    incarnation: str
    software: str
    key: str
    seen: Seen | None = None
    takes: tuple[str, ...] = TAKES
    minor: int = MINOR
    minor_minimum: int = MINOR_MINIMUM


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What both signatures cover besides the signer's own key and store.

    Node ids are those that whois or the netmap gave, never those that a peer claims.
    Minors are (newest, minimum) as offered, so that nobody between can lower them.
    """

    dialler: NodeId
    acceptor: NodeId
    dialler_nonce: str
    acceptor_nonce: str
    dialler_minors: tuple[int, int]
    acceptor_minors: tuple[int, int]


def hello_bytes(side: Side, transcript: Transcript, key: str, incarnation: str) -> bytes:
    """Return what `side` signs; the label differs by side, so no signature can be reflected."""
    return canonical(
        f"hello {side}",
        {
            "dialler": transcript.dialler,
            "acceptor": transcript.acceptor,
            "nonces": [transcript.dialler_nonce, transcript.acceptor_nonce],
            "minors": [*transcript.dialler_minors, *transcript.acceptor_minors],
            "protocol": SUBPROTOCOL,
            "key": key,
            "incarnation": incarnation,
        },
    )


def common_minor(local: Local, minor: int, minimum: int) -> int:
    """Return the newest minor version that this node and the peer both speak.

    Raises:
        VersionMismatch: there is none; names both ranges. The minimum is never lowered.
    """
    common = min(local.minor, minor)
    if common < max(local.minor_minimum, minimum):
        raise VersionMismatch(
            f"this node speaks {_range(local.minor_minimum, local.minor)},"
            f" the peer {_range(minimum, minor)}"
        )
    return common


def _range(minimum: int, newest: int) -> str:
    return f"`{SUBPROTOCOL}` {minimum} to {newest}"
