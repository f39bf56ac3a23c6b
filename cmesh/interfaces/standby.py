"""A new version before its turn: the check that it could serve, and the wait for the word to.

Neither opens the state directory. What the check finds it prints as one JSON line.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path

from cmesh import __version__
from cmesh.config import load_config
from cmesh.errors import CmeshError
from cmesh.interfaces.daemon_log import report_failure
from cmesh.paths import config_file

__all__ = ["MCP", "READY_LINE", "WORD", "check", "wait_for_word"]

READY_LINE = b"standing by\n"
WORD = b"go\n"
MCP = "cmesh.interfaces.mcp.server"
"""The module that serves agents; half of a daemon's memory, so it is loaded for the first one."""


def check() -> int:
    """Try what a start needs, on the copy of the store named on stdin; return the exit status.

    Runs in a process of its own: what it loads, and how it might crash, is nobody else's.
    """
    copy = Path(sys.stdin.readline().rstrip("\n"))
    try:
        from cmesh.node import ffi
        from cmesh.store.backup import rehearse

        load_config(config_file())
        import_module(MCP)
        native = ffi.version()
        rehearsal = rehearse(copy)
    except CmeshError as error:
        report_failure(error, sys.stderr)
        return error.exit_status
    found = {
        "version": __version__,
        "tailscale": native,
        "schema": rehearsal.have,
        "schema_after": rehearsal.want,
        "migrates": rehearsal.migrates,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def wait_for_word(*, agents: bool) -> bool:
    """Say on stdout that all is loaded; return whether stdin then gives the word to go on.

    Both are pipes of the process that replaces a daemon: when it ends, so does the wait.
    Afterwards nothing of them is left open. With `agents` the MCP server is loaded now, since
    their relays come back at once.
    """
    if agents:
        import_module(MCP)
    os.write(1, READY_LINE)
    # Unbuffered, so that nothing is left in a buffer of a descriptor that is replaced.
    given = os.read(0, len(WORD))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # the log
    os.close(null)
    return given == WORD
