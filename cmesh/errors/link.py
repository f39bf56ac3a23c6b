"""Errors of a link to a peer."""

from cmesh.errors.base import CmeshError

__all__ = [
    "LinkError",
    "LocalProtocolError",
    "NotCmesh",
    "PeerOutdated",
    "RemoteProtocolError",
    "VersionMismatch",
]


class LinkError(CmeshError):
    """Raised when a link to a peer fails."""

    code = "link_failed"
    exit_status = 60


class LocalProtocolError(LinkError):
    """Raised when this side would break the link protocol; a bug of ours."""

    code = "local_protocol_error"
    exit_status = 61


class RemoteProtocolError(LinkError):
    """Raised when the peer broke the link protocol."""

    code = "remote_protocol_error"
    exit_status = 62
    default_hint = "compare `cmesh version` on both machines"


class VersionMismatch(LinkError):
    """Raised when the two sides share no protocol version."""

    code = "version_mismatch"
    exit_status = 63
    default_hint = "upgrade cmesh on the older machine (`cmesh version` on both)"


class PeerOutdated(VersionMismatch):
    """Raised when a task asks for what an older worker does not take."""

    code = "peer_outdated"
    default_hint = "upgrade cmesh on that machine, or ask for it without"


class NotCmesh(LinkError):
    """Raised when a tailnet peer answers, but not as cmesh."""

    code = "not_cmesh"
    exit_status = 64
    default_hint = "start cmesh on that machine (`cmesh up`), or name another peer"
