"""The daemon as a launchd agent of its user (launchd.plist(5), launchctl(1)).

Written from the manual pages and read back by `plistlib`; no Mac was at hand to run it on.
"""

import plistlib
import re
from pathlib import Path

from cmesh.setup.service.unit import Change, Standing, Unit

__all__ = ["changes", "label", "plist_file", "plist_text", "removal", "standing", "start", "status"]

_ENV = "/usr/bin/env"
_UMASK = 0o077


def label(name: str) -> str:
    """Return the agent's label."""
    return f"dev.cmesh.{name}"


def plist_file(name: str, home: Path) -> Path:
    """Return where the agent's property list belongs."""
    return home / "Library" / "LaunchAgents" / f"{label(name)}.plist"


def plist_text(unit: Unit) -> str:
    """Return the property list's content.

    The mark of `cmesh down` is not in it: launchd has no condition that only holds a start back,
    so the daemon looks for the mark itself.
    """
    pairs = [f"{name}={value}" for name, value in sorted(unit.environment.items())]
    value = {
        "Label": label(unit.name),
        "ProgramArguments": [_ENV, "-i", *pairs, *unit.argv],
        "WorkingDirectory": "/",
        "Umask": _UMASK,
        "RunAtLoad": True,
        # Not after status 0, which is how it ends on `cmesh down`.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 1,
        # Else launchd ends the shims with the daemon, and their tasks.
        "AbandonProcessGroup": True,
        "ExitTimeOut": 30,
        "ProcessType": "Interactive",  # as a person's program: tasks are not slowed down
        "StandardOutPath": unit.log,
        "StandardErrorPath": unit.log,
    }
    return plistlib.dumps(value, sort_keys=False).decode()


def changes(unit: Unit, file: Path, *, uid: int) -> list[Change]:
    """Return what makes launchd keep the agent, and start it now."""
    return [
        Change(path=file, write=plist_text(unit)),
        Change(argv=("launchctl", "bootout", _target(unit.name, uid)), may_fail=True),
        Change(argv=("launchctl", "bootstrap", f"gui/{uid}", str(file))),
    ]


def removal(name: str, file: Path, *, uid: int) -> list[Change]:
    """Return what ends the daemon and makes launchd forget it."""
    return [
        Change(argv=("launchctl", "bootout", _target(name, uid)), may_fail=True),
        Change(path=file),
    ]


def start(name: str, *, uid: int) -> list[tuple[str, ...]]:
    """Return the command that starts the agent."""
    return [("launchctl", "kickstart", _target(name, uid))]


def status(name: str, *, uid: int) -> tuple[str, ...]:
    """Return the command whose output `standing` reads."""
    return ("launchctl", "print", _target(name, uid))


def standing(shown: str) -> Standing:
    """Read what `status` printed; empty = launchd does not know the agent."""
    pid = re.search(r"^\s*pid = (\d+)$", shown, re.MULTILINE)
    stands = re.search(r"^\s*state = (.+)$", shown, re.MULTILINE)
    return Standing(
        enabled=bool(shown),
        active=pid is not None,
        pid=int(pid[1]) if pid else 0,
        detail=stands[1] if stands else "",
    )


def _target(name: str, uid: int) -> str:
    return f"gui/{uid}/{label(name)}"
