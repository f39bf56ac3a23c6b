"""Who of the tailnet may answer what waits for this machine's owner. Pure.

whois says who a connection is of; the owner's `approvers` say whose word counts. No word of a node
that asked, or that stands in the chain which led here, counts for that task.
"""

from collections.abc import Sequence

from cmesh.model import Identity, NodeId
from cmesh.policy.chain import callers
from cmesh.policy.match import match_peer
from cmesh.policy.rules import Selector

__all__ = ["no_answer", "no_approver"]


def no_approver(identity: Identity, approvers: Sequence[Selector]) -> str:
    """Return why a device is no approver at all; empty = it is one. Never raises."""
    if identity.expired:
        return "its node key has expired"
    if identity.shared:
        return "it is a device of another tailnet"
    if identity.router:
        # What it sends may come from a machine behind it, which nobody has named.
        return "it advertises routes, so what it sends may not be its own"
    if not match_peer(identity, approvers).plain:
        return "it is not among `approvers` of the configuration"
    return ""


def no_answer(
    identity: Identity, approvers: Sequence[Selector], caller: NodeId, origin: tuple[NodeId, ...]
) -> str:
    """Return why a device may not answer for a task; empty = it may. Never raises.

    `caller` is the node that asked for the task here, `origin` the chain before it.
    """
    why = no_approver(identity, approvers)
    if why:
        return why
    if identity.node_id == caller:
        return "it asked for this task itself"
    if identity.node_id in callers(origin, caller):
        return "it stands in the chain that led to this task"
    return ""
