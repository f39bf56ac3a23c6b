"""What is looked at again and again: deadlines, retries, links that are owed, who peers are now."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from cmesh.clock import Clock
from cmesh.daemon.background import guarded
from cmesh.daemon.caller import Caller
from cmesh.daemon.links import Links
from cmesh.daemon.presence import Presence
from cmesh.daemon.rules import Rules
from cmesh.daemon.trust import Trust
from cmesh.daemon.worker import Worker
from cmesh.errors import CmeshError, IdentityUnknown, KeyExpired
from cmesh.link.link import Link
from cmesh.model import Identity, NodeId
from cmesh.protocol.link_messages import May

__all__ = ["Upkeep"]

TICK_S = 1.0
WHOIS_AGAIN_S = 60.0
"""How often all rights are looked at anew, with or without a link."""

GLANCE_TICKS, GLANCES_MOST = 3, 50
"""Linked peers are asked about within so many ticks, but not more at one of them."""


@dataclass(slots=True, kw_only=True)
class Upkeep:
    """The rounds of one daemon.

    Attributes:
        identify: asks whois who a node is now.
        may: says what a peer may ask here.
        peers_changed: has rights looked at anew.
        end_orphans: cancels what ended tasks have asked for.
    """

    rules: Rules
    presence: Presence
    links: Links
    trust: Trust
    worker: Worker
    caller: Caller
    clock: Clock
    identify: Callable[[NodeId], Awaitable[Identity]]
    may: Callable[[Identity], May]
    peers_changed: Callable[[Sequence[NodeId]], None]
    end_orphans: Callable[[], Awaitable[None]]
    _whois_at: float = field(init=False)
    _unseen: list[Link] = field(init=False, default_factory=list[Link])
    _glances: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._whois_at = self.clock.monotonic()

    async def run(self) -> None:
        """Do it for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            self.rules.config()  # a changed file takes effect without anybody asking
            for peer_id in self.caller.peers():
                self.links.ensure(peer_id)
            await guarded(self.worker.expire())
            await guarded(self.caller.expire())
            await guarded(self.caller.retry())
            await guarded(self.glance())
            now = self.clock.monotonic()
            if now - self._whois_at >= WHOIS_AGAIN_S:
                self._whois_at = now
                await guarded(self.presence.refresh())
                await guarded(self.worker.sweep())
                await guarded(self.end_orphans())
                self.peers_changed(self.concerned())
                for peer_id in self.worker.peers():
                    self.links.want(peer_id)

    async def glance(self) -> None:
        """Ask whois about some of the linked peers, and have looked at who is not as before.

        The tailnet sends no notice of a grant that was changed alone: it comes with the packet
        filter, which is nobody's property. A whois costs the same in a tailnet of any size.
        """
        if not self._unseen:
            self._unseen = list(self.links.all())
            self._glances = min(GLANCES_MOST, ceil(len(self._unseen) / GLANCE_TICKS))
        links, self._unseen = self._unseen[: self._glances], self._unseen[self._glances :]
        changed: list[NodeId] = []
        for link in links:
            before = link.identity
            try:
                now = await self.presence.node.whois(before.addresses[0])
            except IdentityUnknown:
                now = None
            except CmeshError:
                continue  # this node cannot ask now, which says nothing about a peer
            if now != before:
                changed.append(before.node_id)
        if changed:
            self.peers_changed(changed)

    async def recheck(self, peer_ids: Sequence[NodeId]) -> None:
        """Ask whois again about peers, and act on the answer at once."""
        for peer_id in peer_ids:
            # INVARIANT: the link before the tasks, or a submit that comes in between is decided
            # by who the peer was, and not looked at again.
            await self._recheck_link(peer_id)
            # Its tasks run on without a link, so they are looked at without one as well.
            await guarded(self.worker.recheck(peer_id))

    async def _recheck_link(self, peer_id: NodeId) -> None:
        link = self.links.get(peer_id)
        if link is None:
            if self.caller.owes(peer_id):
                self.links.want(peer_id)
            return
        try:
            identity = await self.identify(peer_id)
            if identity.expired:
                raise KeyExpired(f"the node key of `{identity.name}` has expired")
            self.trust.require_pinned(identity)
        except CmeshError as error:
            await self.links.drop(peer_id, error)
            return
        link.identity = identity
        link.post_grants(self.may(identity))

    def concerned(self) -> list[NodeId]:
        """Return the peers whose rights matter now: linked ones, and those with tasks here."""
        linked = {link.identity.node_id for link in self.links.all()}
        return sorted(linked | self.worker.peers())
