"""Which system this is, by its name; the other modules here hold what differs for it.

INVARIANT: outside of `cmesh.platform` nobody asks `sys.platform` or `os.name`: what a system does
in its own way has a function here, and one file for each system that does it.
"""

import sys
from typing import Literal

__all__ = ["HERE", "System"]

System = Literal["linux", "macos", "windows"]
"""Any other Unix counts as Linux, and is told at run time what of it is missing."""

_SYSTEMS: dict[str, System] = {"darwin": "macos", "win32": "windows"}

HERE: System = _SYSTEMS.get(sys.platform, "linux")
