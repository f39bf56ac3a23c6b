"""Which processes of a machine there are, as the kernel says."""

import contextlib
from pathlib import Path

__all__ = ["daemons_of"]

COMMAND = [b"-I", b"-m", b"cmesh", b"daemon"]
"""What follows the interpreter in a daemon's command line."""


def daemons_of(state: Path) -> list[int]:
    """Return the processes that serve a state directory, or are about to."""
    found: list[int] = []
    wanted = f"CMESH_STATE_DIR={state}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:5] == COMMAND and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
