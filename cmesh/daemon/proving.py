"""One question to a peer about its log and this one's, for who checks this machine's audit."""

from typing import Any

from cmesh.daemon.asking import CONTACT_LIMIT_S
from cmesh.daemon.core import Daemon
from cmesh.daemon.proof_calls import ProofArguments, ProofView
from cmesh.errors import PeerUnreachable
from cmesh.text import one_line

__all__ = ["ask_proof"]


async def ask_proof(daemon: Daemon, arguments: ProofArguments) -> ProofView:
    """Ask a peer, waiting up to `CONTACT_LIMIT_S` for a link and `ANSWER_LIMIT_S` for its word.

    Raises:
        UnknownPeer: nobody has that name.
        PeerUnreachable: it is away, or does not answer.
        PeerUntrusted: its key is not trusted here, or ours not there.
        PeerOutdated: it runs a version that cannot be asked.
    """
    peer = await daemon.presence.peer(arguments.peer)
    daemon.trust.require_same(peer.identity)
    node_id, name = peer.identity.node_id, peer.identity.label
    if daemon.links.get(node_id) is None:
        await daemon.links.attempt(node_id, CONTACT_LIMIT_S, unasked=True)
    link = daemon.links.get(node_id)
    if link is None:
        why = daemon.links.contact(node_id).error
        raise why or PeerUnreachable(f"there is no link to `{one_line(name, 60)}`")
    answer = await daemon.proofs.ask(link, **_question(arguments))
    return ProofView(node_id=node_id, name=name, key=link.opened.key, answer=answer)


def _question(arguments: ProofArguments) -> dict[str, Any]:
    if arguments.rows:
        return {"about": "rows", "heads": arguments.rows}
    if arguments.task_id is not None:
        return {"about": "end", "task_id": arguments.task_id}
    return {"about": "held", "after": arguments.after}
