"""The versions of cmesh's parts and of what it runs on, for people and for bug reports."""

import platform

from cmesh import __version__
from cmesh.interfaces.wire import CONTROL_VERSION

__all__ = ["machine_versions", "versions"]


def versions() -> dict[str, str]:
    """Return the version of each of cmesh's parts by name. Loads the tailnet's code."""
    from cmesh.node import ffi
    from cmesh.protocol.messages import MINOR, SUBPROTOCOL

    return {
        "cmesh": __version__,
        "tailscale": ffi.version(),
        "link": f"{SUBPROTOCOL}.{MINOR}",
        "control": str(CONTROL_VERSION),
    }


def machine_versions() -> dict[str, str]:
    """Return the versions of what cmesh runs on here; says nothing of whose machine it is."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }
