"""What the links of a node need of the rest of its daemon."""

from collections.abc import Sequence
from typing import Protocol

from cmesh.link.link import Link
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, NodeId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import May
from cmesh.protocol.messages import Message
from cmesh.protocol.session_events import Introduced

__all__ = ["Side"]


class Side(Protocol):
    """What links need of the rest of the daemon."""

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, Sequence[str]]:
        """Decide on a proven key; raises a `CmeshError` to refuse."""
        ...

    async def pair(self, wire: Wire, identity: Identity) -> None:
        """Run a connection that is about a pairing to its end; it is no link."""
        ...

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        ...

    async def connected(self, link: Link) -> None:
        """A link is open."""
        ...

    def disconnected(self, link: Link) -> None:
        """A link has ended."""
        ...

    def take(self, link: Link, message: Message) -> None:
        """Take a message that is about tasks."""
        ...

    def take_chunk(self, link: Link, chunk: Chunk) -> None:
        """Take a piece of an output."""
        ...
