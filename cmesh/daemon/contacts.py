"""What is known of reaching each peer: the last failure, what it allows, when it was heard."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime

from cmesh.clock import Clock
from cmesh.errors import (
    CmeshError,
    LinkError,
    NotCmesh,
    PeerUnreachable,
    RemoteProtocolError,
    VersionMismatch,
)
from cmesh.link.link import new_pace
from cmesh.model import NodeId
from cmesh.protocol.link_messages import May
from cmesh.rate import Bucket

__all__ = ["BACKOFF_MOST_S", "UNREACHABLE_MOST_S", "Contact", "Contacts"]

logger = logging.getLogger(__name__)

BACKOFF_MOST_S = 30.0
UNREACHABLE_MOST_S = 5.0
"""For a peer that does not answer, or not to the end of a handshake: a line that heals after a
minute is used within 10 s.

Jitter and the attempt itself included. A peer that answers and refuses gets the longer pause.
"""

RESTART_S = 20.0
"""After a `restarting`, the peer is expected back for so long, and tried often."""


@dataclass(slots=True)
class Contact:
    """What is known of reaching a peer.

    Attributes:
        error: why the last attempt failed; None after a success.
        may: what the peer said this node may ask of it.
        at: when it was last heard.
        brief: links in a row that ended before they were steady.
        refused: the peer said why it ends, or does not open, the latest link.
        restarting_until: by the monotonic clock; the peer said that it will be back at once.
    """

    error: CmeshError | None = None
    may: May = field(default_factory=May)
    software: str = ""
    at: datetime | None = None
    brief: int = 0
    refused: bool = False
    restarting_until: float = 0.0

    @property
    def pause_most_s(self) -> float:
        """The longest pause before it is dialled again: a line heals, a refusal seldom."""
        lost = self.error  # None: one side closed it
        if self.refused or isinstance(lost, RemoteProtocolError | VersionMismatch):
            return BACKOFF_MOST_S
        # A node is up before its listener: a peer that was heard before is starting again.
        if isinstance(lost, NotCmesh) and self.at is None:
            return BACKOFF_MOST_S
        return (
            UNREACHABLE_MOST_S if isinstance(lost, LinkError | PeerUnreachable) else BACKOFF_MOST_S
        )


class Contacts:
    """All peers that were ever tried, or have come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._contacts: dict[NodeId, Contact] = {}
        self._attempts: dict[NodeId, asyncio.Event] = {}
        self._paces: dict[NodeId, Bucket] = {}

    def of(self, peer_id: NodeId) -> Contact:
        """Return what is known of a peer."""
        return self._contacts.setdefault(peer_id, Contact())

    def pace(self, peer_id: NodeId) -> Bucket:
        """Return how fast a peer may send.

        INVARIANT: of the peer and not of a link, or each new link would give it a burst.
        """
        pace = self._paces.get(peer_id)
        if pace is None:
            pace = self._paces[peer_id] = new_pace()
        return pace

    def begin(self, peer_id: NodeId) -> asyncio.Event:
        """Return an event that is set when the next attempt has ended."""
        tried = self._attempts.setdefault(peer_id, asyncio.Event())
        tried.clear()
        return tried

    def will_restart(self, peer_id: NodeId) -> None:
        """Note that a peer has said that it will be back at once."""
        self.of(peer_id).restarting_until = self._clock.monotonic() + RESTART_S

    def restarting(self, peer_id: NodeId) -> bool:
        """Say whether a peer is expected back at once."""
        return self._clock.monotonic() < self.of(peer_id).restarting_until

    def failed(self, peer_id: NodeId, error: CmeshError, *, refused: bool = False) -> None:
        """Note why an attempt has failed; `refused`: the peer itself said so."""
        contact = self.of(peer_id)
        if contact.error is None or contact.error.code != error.code:
            data = {"peer": peer_id, "code": error.code, "why": error.message}
            logger.warning("no_link", extra={"data": data})
        contact.error, contact.refused = error, refused
        self.tried(peer_id)

    def tried(self, peer_id: NodeId) -> None:
        """Note that an attempt has ended."""
        self._attempts.setdefault(peer_id, asyncio.Event()).set()
