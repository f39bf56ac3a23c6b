"""What the daemon alone can say of its node when somebody looks for a fault: paths, warnings.

Asks and changes nothing; all else that `cmesh doctor` shows comes from the other operations.
"""

import asyncio
from collections.abc import Sequence

from cmesh.daemon.core import Daemon
from cmesh.daemon.diagnosis_answers import DiagnosisView, PathView
from cmesh.daemon.overview import link_state
from cmesh.errors import CmeshError
from cmesh.node.whois import Peer

__all__ = ["diagnose"]

PING_LIMIT_S = 3.0
PINGED_MOST = 16
"""Peers that are asked for a round trip, those with a link first; the others are left out."""


async def diagnose(daemon: Daemon) -> DiagnosisView:
    """Ask the node for its warnings and each near peer for a round trip; at most some seconds."""
    search_path = await asyncio.to_thread(lambda: daemon.runners.search_path)
    if daemon.presence.phase != "up":
        return DiagnosisView(search_path=search_path)
    try:
        status = await daemon.presence.node.status()
        chosen = _chosen(daemon, await daemon.presence.node.peers())
    except CmeshError:  # it has just gone down; the status says why
        return DiagnosisView(search_path=search_path)
    paths = await asyncio.gather(*(_path(daemon, peer) for peer in chosen))
    return DiagnosisView(health=list(status.health), search_path=search_path, paths=list(paths))


def _chosen(daemon: Daemon, peers: Sequence[Peer]) -> list[Peer]:
    near = [
        peer
        for peer in peers
        if peer.online
        and not peer.identity.expired
        and daemon.trust.standing(peer.identity.node_id) == "trusted"
    ]
    linked = [link_state(daemon, peer.identity.node_id) == "connected" for peer in near]
    ranked = sorted(zip(linked, near, strict=True), key=lambda one: not one[0])
    return [peer for _linked, peer in ranked[:PINGED_MOST]]


async def _path(daemon: Daemon, peer: Peer) -> PathView:
    node_id = peer.identity.node_id
    try:
        ping = await daemon.presence.node.ping(node_id, timeout_s=PING_LIMIT_S)
    except CmeshError as error:
        return PathView(node_id=node_id, problem=error.message)
    return PathView(
        node_id=node_id,
        direct=bool(ping.direct),
        relay=ping.relay,
        ping_ms=round(ping.latency_s * 1000, 1),
    )
