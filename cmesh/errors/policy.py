"""Errors of what a rule denies, and of machines that trust each other or do not."""

from cmesh.errors.base import CmeshError

__all__ = ["PairingBusy", "PairingEnded", "PairingRefused", "PeerUntrusted", "PolicyDenied"]


class PolicyDenied(CmeshError):
    """Raised when a rule, or the absence of one, denies an operation."""

    code = "policy_denied"
    exit_status = 30
    default_hint = "run `cmesh policy explain`"


class PeerUntrusted(PolicyDenied):
    """Raised when a peer's cmesh key is not trusted by the other side's owner yet."""

    code = "peer_untrusted"
    exit_status = 31
    default_hint = "run `cmesh pair` on both machines; or `cmesh peers trust NAME` on the other one"


class PairingRefused(PolicyDenied):
    """Raised when a machine is refused for a while, because too many codes were wrong."""

    code = "pairing_refused"
    exit_status = 32
    default_hint = "wait, then run `cmesh pair PEER` on both machines"


class PairingEnded(PolicyDenied):
    """Raised when a pairing is over without a confirmation; nothing was trusted or allowed."""

    code = "pairing_ended"
    exit_status = 33
    default_hint = "run `cmesh pair PEER` on both machines again"


class PairingBusy(PolicyDenied):
    """Raised when another pairing of this machine is under way."""

    code = "pairing_busy"
    exit_status = 34
    default_hint = "finish it, or end it with Ctrl-C, then repeat"
