"""The tailnet's nodes by each of their names, as the node last said.

To ask the node costs as much as there are peers, and each dial and each look at a peer's rights
looks one of them up: a thousand links that break at once must not ask a thousand times.
Who a peer is, and whether its key holds, is whois' to say, at the moment it matters.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cmesh.errors import UnknownPeer
from cmesh.model import host_label
from cmesh.nearest import did_you_mean
from cmesh.node.whois import NodeStatus, Peer

__all__ = ["Netmap", "names"]

AGE_LIMIT_S = 1.0
"""How long an answer is used when nothing tells of a change; a key expires without a notice."""


class Netmap:
    """Remembers the peers until something changes. Event loop only."""

    def __init__(self, ask: Callable[[], Awaitable[tuple[Peer, ...]]]) -> None:
        """Make it; `ask` asks the node, whichever it is then."""
        self._ask = ask
        self._peers: tuple[Peer, ...] = ()
        self._by_name: Mapping[str, Sequence[Peer]] = {}
        self._until = 0.0  # by the loop's clock
        self._changes = 0
        self._asking = asyncio.Lock()  # of many that look at once, one asks

    def changed(self) -> None:
        """Forget what is known: a peer came, changed or went, or it is another node now."""
        self._changes += 1
        self._until = 0.0

    async def named(self, name: str) -> Sequence[Peer]:
        """Return the peers with this host label, MagicDNS name, address or node id.

        That there is none is never said from memory.

        Raises:
            NodeError: the node cannot say.
        """
        async with self._asking:
            if asyncio.get_running_loop().time() < self._until and name in self._by_name:
                return self._by_name[name]
            changes = self._changes
            self._peers = await self._ask()
            by_name: dict[str, list[Peer]] = {}
            for peer in self._peers:
                for one in names(peer):
                    by_name.setdefault(one, []).append(peer)
            self._by_name = by_name
            # INVARIANT: nothing is kept that was asked for before the last change was told.
            if changes == self._changes:
                self._until = asyncio.get_running_loop().time() + AGE_LIMIT_S
            return by_name.get(name, ())

    async def peer(self, name: str, own: NodeStatus | None) -> Peer:
        """Return the one peer of that name; `own` is this node's state, if it is known.

        Raises:
            UnknownPeer: nobody has that name, or several have; the hint has names.
            NodeError: the node cannot say.
        """
        found = await self.named(name)
        exact = [peer for peer in found if name != peer.identity.label]
        if len(exact or found) > 1:  # a machine shared in from another tailnet, for example
            names = "` or `".join(peer.identity.name for peer in found)
            raise UnknownPeer(f"`{name}` means more than one peer", hint=f"name `{names}`")
        if found:
            return (exact or found)[0]
        if own is not None and name in (own.name, host_label(own.name), own.node_id):
            raise UnknownPeer(
                f"`{name}` is this machine itself, and a peer is another one",
                hint="name another machine, see `cmesh peers`",
            )
        labels = [peer.identity.label for peer in self._peers]
        hint = did_you_mean(name, labels) or "run `cmesh peers`"
        raise UnknownPeer(f"no peer is named `{name}`", hint=hint)


def names(peer: Peer) -> set[str]:
    """Return all that a peer is called by."""
    identity = peer.identity
    return {identity.label, identity.name, str(identity.node_id), *identity.addresses}
