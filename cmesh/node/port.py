"""The UDP port of a node's last start, so that the next one takes it again.

A peer sends to where it last heard a node from, for 6.5 s after that, whatever the tailnet
tells it meanwhile (`trustUDPAddrDuration` in Tailscale's wgengine/magicsock). From another
port, a node that was restarted gets no answer to its first one or two WireGuard handshakes,
which are repeated every 5 s (`RekeyTimeout`, WireGuard's whitepaper, section 6.1).
"""

import contextlib
from pathlib import Path

__all__ = ["last_port", "remember_port"]

_NAME = "udp-port"
_HIGHEST = 65_535


def last_port(state_dir: Path) -> int:
    """Return the port of the last start; 0 = none is known, or what is kept cannot be read."""
    try:
        port = int((state_dir / _NAME).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port <= _HIGHEST else 0


def remember_port(state_dir: Path, port: int) -> None:
    """Keep the port for the next start; a hint only, so a full disk costs no more than that."""
    with contextlib.suppress(OSError):
        (state_dir / _NAME).write_text(f"{port}\n", encoding="ascii")
