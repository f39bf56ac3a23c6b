"""What the node's own log says about the control server.

The node reports no reason while it waits for a control server that does not answer;
it only writes it down. Read here for people: nothing is decided by it.
"""

import os
import re
from pathlib import Path

from cmesh.text import one_line

__all__ = ["last_control_error", "size"]

TAIL_BYTES = 64 * 1024
ERROR_CHARACTERS = 300

# How controlclient of tailscale.com v1.102.5 logs a failed round with the control server,
# and that it was served. A long poll that begins starts with the same word.
_FAILED = re.compile(
    rb"^control: (?:\[v\d\] )?(?:TryLogin|PollNetMap): (?!stream=)(.+)$", re.MULTILINE
)
_SERVED = re.compile(rb"^control: .*(?:RegisterReq: got response|netmap received)", re.MULTILINE)


def size(log: Path) -> int:
    """Return how long a log is now, in bytes; 0 without one."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def last_control_error(log: Path, begin: int = 0) -> str:
    """Return why the last round with the control server failed; empty = no failure is on record.

    Reads at most the last `TAIL_BYTES` of what stands after byte `begin`. Blocks on the disk.
    """
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(min(begin, end), end - TAIL_BYTES))
            text = file.read(TAIL_BYTES)
    except OSError:
        return ""
    failures = list(_FAILED.finditer(text))
    served = [found.end() for found in _SERVED.finditer(text)]
    if not failures or (served and served[-1] > failures[-1].start()):
        return ""
    return one_line(failures[-1][1].decode("utf-8", "replace"), ERROR_CHARACTERS)
