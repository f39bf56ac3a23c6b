"""What the node says about others and itself, from JSON to values.

Pure: text in, frozen values out. A field that is missing or of the wrong type
is an error, never a guess.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from cmesh.errors import IdentityUnknown, NodeError
from cmesh.model import Identity, NodeId

__all__ = [
    "NodeStatus",
    "Notification",
    "Peer",
    "Ping",
    "parse_identity",
    "parse_notification",
    "parse_peers",
    "parse_ping",
    "parse_status",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The node's own state.

    Attributes:
        state: Tailscale's `ipn.State`: `NoState`, `NeedsLogin`, `NeedsMachineAuth`,
            `Stopped`, `Starting` or `Running`.
        login_url: where a person logs this node in; empty when no login is pending.
        tailnet: the tailnet's name; empty before the first netmap.
        testnet: the control server says it is a cmesh test tailnet.
        health: warnings, one sentence each.
        port: the UDP port that WireGuard listens on.
    """

    state: str
    login_url: str
    node_id: NodeId
    name: str
    user: str
    tags: tuple[str, ...]
    addresses: tuple[str, ...]
    key_expiry: datetime | None
    expired: bool
    health: tuple[str, ...]
    tailnet: str
    testnet: bool
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node of the netmap, and how it is reached at the moment.

    Attributes:
        identity: as whois would say, without the capabilities.
        online: connected to the control server; says nothing about cmesh on it.
        direct: `ip:port` of the direct path in use; empty when there is none.
        relay: code of the DERP region that is the peer's home; empty when unknown.
        last_seen: when it was last online; None = unknown, or online now.
    """

    identity: Identity
    online: bool
    direct: str
    relay: str
    os: str
    last_seen: datetime | None

    @property
    def node_id(self) -> NodeId:
        """Return its stable id on the tailnet."""
        return self.identity.node_id

    @property
    def label(self) -> str:
        """Return the name that people know it by."""
        return self.identity.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A round trip below TCP, by `direct` path or else through DERP region `relay`."""

    latency_s: float
    direct: str
    relay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What changed. None or empty = unchanged.

    Attributes:
        error: the control server refused something, for example an auth key.
        peers_changed: node ids that are new or whose properties changed.
        peers_removed: node ids that left the netmap.
    """

    state: str | None = None
    login_url: str | None = None
    error: str | None = None
    health: tuple[str, ...] | None = None
    key_expiry: datetime | None = None
    peers_changed: tuple[NodeId, ...] = ()
    peers_removed: tuple[NodeId, ...] = ()


def parse_identity(text: str) -> Identity:
    """Read the answer of `cmesh_whois`.

    Raises:
        IdentityUnknown: the answer is not of the expected form, or names no node.
    """
    try:
        identity = _identity(_object(text))
    except (ValueError, KeyError, TypeError, AttributeError, NodeError) as error:
        raise IdentityUnknown("whois gave an answer that cannot be read") from error
    if not identity.node_id:
        raise IdentityUnknown("whois gave no node id")
    return identity


def parse_status(text: str) -> NodeStatus:
    """Read the answer of `cmesh_status`."""
    raw = _object(text)
    return NodeStatus(
        state=str(raw["state"]),
        login_url=str(raw["login_url"]),
        node_id=NodeId(str(raw["node_id"])),
        name=str(raw["name"]),
        user=str(raw["user"]),
        tags=_strings(raw["tags"]),
        addresses=_strings(raw["addresses"]),
        key_expiry=_time(raw["key_expiry"]),
        expired=bool(raw["expired"]),
        health=_strings(raw["health"]),
        tailnet=str(raw["tailnet"]),
        testnet=bool(raw["testnet"]),
        port=int(raw["port"]),
    )


def parse_peers(text: str) -> tuple[Peer, ...]:
    """Read the answer of `cmesh_peers`."""
    return tuple(
        Peer(
            identity=_identity(raw),
            online=bool(raw["online"]),
            direct=str(raw["direct"]),
            relay=str(raw["relay"]),
            os=str(raw["os"]),
            last_seen=_time(raw["last_seen"]),
        )
        for raw in cast("list[dict[str, Any]]", json.loads(text))
    )


def parse_ping(text: str) -> Ping:
    """Read the answer of `cmesh_ping`."""
    raw = _object(text)
    return Ping(
        latency_s=float(raw["latency_s"]), direct=str(raw["direct"]), relay=str(raw["relay"])
    )


def parse_notification(line: bytes) -> Notification:
    """Read one line of a watch."""
    raw = _object(line.decode())
    return Notification(
        state=raw.get("state"),
        login_url=raw.get("login_url"),
        error=raw.get("error"),
        health=_strings(raw["health"]) if "health" in raw else None,
        key_expiry=_time(raw.get("key_expiry")),
        peers_changed=tuple(NodeId(text) for text in _strings(raw.get("peers_changed", []))),
        peers_removed=tuple(NodeId(text) for text in _strings(raw.get("peers_removed", []))),
    )


def _identity(raw: Mapping[str, Any]) -> Identity:
    return Identity(
        node_id=NodeId(str(raw["node_id"])),
        name=str(raw["name"]),
        user=str(raw["user"]),
        tags=_strings(raw["tags"]),
        addresses=_strings(raw["addresses"]),
        expired=_flag(raw["expired"]),
        key_expiry=_time(raw["key_expiry"]),
        shared=_flag(raw["shared"]),
        router=_flag(raw["router"]),
        ephemeral=_flag(raw.get("ephemeral", False)),
        capabilities={
            str(name): tuple(values)
            for name, values in cast("dict[str, list[object]]", raw.get("capabilities", {})).items()
        },
    )


def _object(text: str) -> dict[str, Any]:
    value: object = json.loads(text)
    if not isinstance(value, dict):
        raise NodeError("the native node gave an answer that is no object")
    return cast("dict[str, Any]", value)


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(str(item) for item in cast("list[object]", value))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _time(value: object) -> datetime | None:
    return None if value is None else datetime.fromisoformat(str(value))
