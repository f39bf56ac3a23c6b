"""Talking with the other machine of a pairing: connecting, proving keys, frames in both directions."""

import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeVar

from cmesh.daemon.links import Links
from cmesh.errors import RemoteProtocolError, UnknownPeer
from cmesh.keys import SigningKey, verify
from cmesh.link.tailnet import Wire
from cmesh.model import NodeId
from cmesh.protocol.pair_exchange import Met, Shower, Signer, Typist

__all__ = ["Talk", "Talker", "next_event"]

ANSWER_LIMIT_S = 10.0
"""How long either side waits for the other's next frame."""

NONCE_BYTES = 24

_E = TypeVar("_E")


@dataclass(frozen=True, slots=True)
class Talk:
    """A connection on which both keys are proved, and how the other side's pairing stands."""

    wire: Wire
    exchange: Typist
    met: Met


class Talker:
    """Makes this node's part of connections."""

    def __init__(self, links: Links, key: SigningKey, self_id: Callable[[], NodeId]) -> None:
        self._links = links
        self._key = key
        self.self_id = self_id

    @contextlib.asynccontextmanager
    async def meet(self, peer_id: NodeId, *, looking: bool) -> AsyncGenerator[Talk]:
        """Connect to a node, prove this one's key, and learn its own and how it stands.

        Raises:
            NodeError, LinkError: as `Links.dial_to_pair`, or the other side broke the protocol.
        """
        wire, identity = await self._links.dial_to_pair(peer_id)
        try:
            if identity.node_id != peer_id:
                raise UnknownPeer(f"the address of node `{peer_id}` is another one's by now")
            exchange = Typist(self._signer(), peer_id, _nonce(), looking=looking)
            yield Talk(wire, exchange, await next_event(wire, exchange, Met))
        finally:
            await wire.close()

    async def accept(self, wire: Wire, peer_id: NodeId) -> Shower:
        """Begin on an accepted connection: who this is, and what is to be signed."""
        exchange = Shower(self._signer(), peer_id, _nonce())
        for frame in exchange.initial():
            await wire.send(frame)
        return exchange

    def _signer(self) -> Signer:
        return Signer(
            node_id=self.self_id(),
            key=self._key.public,
            sign=self._key.sign,
            verify=verify,
            entropy=os.urandom,
        )


async def next_event(wire: Wire, exchange: Shower | Typist, *wanted: type[_E]) -> _E:
    """Return the next event, sending what is called for on the way.

    Raises:
        LinkError: the connection ended, nothing came in time, or the other side broke the protocol.
    """
    while True:
        events = exchange.receive(await wire.receive(ANSWER_LIMIT_S))
        for frame in exchange.outgoing():
            await wire.send(frame)
        for event in events:
            if isinstance(event, wanted):
                return event
            raise RemoteProtocolError("the peer answered a pairing out of turn")


def _nonce() -> str:
    return secrets.token_urlsafe(NONCE_BYTES)
