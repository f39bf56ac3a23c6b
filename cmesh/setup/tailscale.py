"""A Tailscale that the system already has: found, read, never changed.

cmesh is a node of its own beside it. Its peers are candidates by name: whether cmesh runs there
is asked over cmesh's own node later.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cmesh.setup.facts import SystemPeer, SystemTailscale
from cmesh.text import one_line

__all__ = ["SOCKETS", "find", "read_status"]

SOCKETS = ("/var/run/tailscale/tailscaled.sock", "/run/tailscale/tailscaled.sock")
STATUS_LIMIT_S = 5.0
PEERS_MOST = 50
_TAILSCALE = "https://controlplane.tailscale.com"


def find(program: str, sockets: Sequence[str] = SOCKETS) -> SystemTailscale | None:
    """Return the system's Tailscale; None = there is no sign of one. Blocks for seconds.

    `program` is the absolute path of `tailscale`, or empty. Only `status` and `debug prefs` are
    asked for, which change nothing.
    """
    socket = next((place for place in sockets if _is_socket(place)), "")
    if not socket and not program:
        return None
    nothing: Mapping[str, Any] = {}
    status = _ask(program, "status", "--json") if program else nothing
    prefs = _ask(program, "debug", "prefs") if status else nothing
    return read_status(status, prefs, socket=socket, program=program)


def read_status(
    status: Mapping[str, Any], prefs: Mapping[str, Any], *, socket: str, program: str
) -> SystemTailscale:
    """Return what `tailscale status --json` and `debug prefs` say; all of it is scrubbed. Pure."""
    peers = _mapping(status.get("Peer"))
    found = [_peer(_mapping(peer)) for peer in peers.values()]
    url = str(prefs.get("ControlURL") or "")
    return SystemTailscale(
        socket=socket,
        program=program,
        state=one_line(str(status.get("BackendState") or ""), 40),
        name=_name(_mapping(status.get("Self"))),
        control_url="" if url in ("", _TAILSCALE) else one_line(url, 200),
        peers=tuple(sorted(found, key=lambda peer: (not peer.online, peer.name))[:PEERS_MOST]),
    )


def _peer(fields: Mapping[str, Any]) -> SystemPeer:
    return SystemPeer(
        name=_name(fields),
        os=one_line(str(fields.get("OS") or ""), 40),
        online=fields.get("Online") is True,
    )


def _name(fields: Mapping[str, Any]) -> str:
    dns = str(fields.get("DNSName") or "").partition(".")[0]
    return one_line(dns or str(fields.get("HostName") or ""), 80)


def _ask(program: str, *arguments: str) -> Mapping[str, Any]:
    try:
        answer = subprocess.run(  # noqa: S603 - the system's own program
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STATUS_LIMIT_S,
            check=False,
            cwd="/",
        )
        return _mapping(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _is_socket(place: str) -> bool:
    try:
        return Path(place).is_socket()
    except OSError:
        return False
