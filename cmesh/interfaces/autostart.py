"""`cmesh autostart`, for programs such as the relay: start the daemon unless a person stopped it.

Prints one JSON line and no help; people use `cmesh up`.
"""

import json
import sys

from cmesh.errors import CmeshError
from cmesh.interfaces.start import ensure_daemon
from cmesh.paths import config_dir, state_dir

__all__ = ["main"]


def main() -> int:
    """Start the daemon if need be; return 0 when one answers, else the error's exit status."""
    try:
        running = ensure_daemon(state_dir(), config_dir())
    except CmeshError as error:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        sys.stdout.write(json.dumps({"error": body}) + "\n")
        return error.exit_status
    sys.stdout.write(json.dumps({"version": running.version, "pid": running.pid}) + "\n")
    return 0
