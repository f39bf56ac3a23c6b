"""What a link's session says of what it has received."""

from dataclasses import dataclass

from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import May, Seen
from cmesh.protocol.messages import Message

__all__ = ["Got", "GotChunk", "Introduced", "Opened", "SessionEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduced:
    """The peer has proven that it holds `key`. The daemon decides whether it is trusted.

    Attributes:
        seen: the newest audit head of this node that the peer holds; not checked here.
        takes: fields of a task that came later, and that the peer knows.
    """

    key: str
    incarnation: str
    minor: int
    software: str
    seen: Seen | None = None
    takes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The link is open: both keys are proven, both sides said what the other may ask.

    Attributes:
        may: what this node may ask of the peer.
        unacknowledged: ended tasks whose result the peer has no receipt for.
        takes: as `Introduced`.
    """

    key: str
    incarnation: str
    minor: int
    software: str
    may: May
    unacknowledged: tuple[str, ...]
    takes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Got:
    """A message on an open link, or a `failure` at any time."""

    message: Message


@dataclass(frozen=True, slots=True)
class GotChunk:
    """A piece of a kept output."""

    chunk: Chunk


SessionEvent = Introduced | Opened | Got | GotChunk
