"""Commands of cmesh for the chaos suite: the real ones, but a daemon that they start is the suite's.

Run as `python -m tests.chaos.commands ARGUMENTS` by the machine's user. The daemon is
`tests.chaos.crashing`, so that its clock and its points are the harness's as well; checks,
order, locks and the way back are the product's. A relay starts a daemon by this module too.
"""

import os
import sys
from pathlib import Path

from cmesh import paths
from cmesh.__main__ import main
from cmesh.interfaces import replace, replace_check, start
from cmesh.interfaces.mcp import relay

__all__: list[str] = []

_INHERITED = ("CHAOS_DIR", "PYTHONPATH")
_OWN = {
    "daemon_argv": (replace, replace_check, start),
    "daemon_environment": (replace_check, start),
}
"""What is the suite's, and the modules that use it to start a daemon or to try one."""

_AUTOSTART = (sys.executable, "-m", "tests.chaos.commands", "autostart")


def crashing_argv(interpreter: str, *more: str) -> list[str]:
    """Return the command line of the suite's daemon."""
    return [interpreter, "-m", "tests.chaos.crashing", *more]


def environment(state: Path, config: Path) -> dict[str, str]:
    """Return a daemon's environment, with what the suite's daemon needs."""
    inherited = {name: os.environ[name] for name in _INHERITED}
    return paths.daemon_environment(state, config) | inherited


if __name__ == "__main__":
    for name, own in (("daemon_argv", crashing_argv), ("daemon_environment", environment)):
        for module in _OWN[name]:
            assert hasattr(module, name), f"the product has no `{name}` there any more"
            setattr(module, name, own)
    sys.exit(relay.main(_AUTOSTART) if sys.argv[1:] == ["mcp"] else main())
