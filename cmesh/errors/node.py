"""Errors of the embedded node, and of the peers it looks for."""

from cmesh.errors.base import CmeshError

__all__ = [
    "ControlUnreachable",
    "IdentityUnknown",
    "KeyExpired",
    "LoginRequired",
    "NoPeerMatches",
    "NodeClosed",
    "NodeError",
    "PeerUnreachable",
    "UnknownPeer",
    "WrongMachine",
]


class NodeError(CmeshError):
    """Raised when the embedded tailnet node fails."""

    code = "node_failed"
    exit_status = 20


class LoginRequired(NodeError):
    """Raised when the node has no login on the tailnet yet."""

    code = "login_required"
    exit_status = 21
    default_hint = "run `cmesh login`"


class PeerUnreachable(NodeError):
    """Raised when a peer is known but does not answer in time."""

    code = "peer_unreachable"
    exit_status = 22
    first_step = "check that the machine is on and `cmesh status` there says up"
    default_hint = (
        f"{first_step}; then retry, or let the task wait for it with `--if-offline queue`"
    )


class IdentityUnknown(NodeError):
    """Raised when whois cannot say who a connection belongs to."""

    code = "identity_unknown"
    exit_status = 23


class UnknownPeer(NodeError):
    """Raised when no peer has the given name; carries the nearest names."""

    code = "unknown_peer"
    exit_status = 24
    default_hint = "run `cmesh peers`"


class NoPeerMatches(NodeError):
    """Raised when no peer is as the call asks for; says of each what is not."""

    code = "no_peer_matches"
    exit_status = 29
    default_hint = "ask for less, or name a peer; `cmesh peers` shows what each is like"


class NodeClosed(NodeError):
    """Raised when a call needs a node that was closed or never started."""

    code = "node_closed"
    exit_status = 25


class KeyExpired(NodeError):
    """Raised when this node's or the peer's node key has expired."""

    code = "key_expired"
    exit_status = 26
    default_hint = "run `cmesh login` on the machine whose key expired"


class WrongMachine(NodeError):
    """Raised when a peer's name now belongs to another node than the pinned one."""

    code = "wrong_machine"
    exit_status = 27
    default_hint = "compare `cmesh peers`; if the change is yours, `cmesh peers trust NAME`"


class ControlUnreachable(NodeError):
    """Raised when the tailnet's control server does not answer, or not as one."""

    code = "control_unreachable"
    exit_status = 28
    default_hint = "check `control_url` in config.toml and the network; the node keeps trying"
