"""A control group of a shim's own, where the daemon's service manager gave it a tree to divide.

A manager that counts, limits or ends the daemon's group then does so to the daemon alone.
Standard library only; see cgroups(7), and "Delegation" of systemd's control group documentation.
"""

import contextlib
import os
import re

__all__ = ["own_group"]

OWN = "/proc/self/cgroup"
MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where version 2 of control groups is mounted: alone, or beside version 1."""

_NAME = "shim-"
_UNIT = re.compile(r"cmesh(-[0-9a-f]{8})?\.service")  # those that `cmesh service install` writes


def own_group() -> str:
    """Move this process into a group of its own; return its directory, empty where that cannot be.

    It has no children yet, so nothing of it stays behind. Groups of shims that have ended are
    taken away.
    """
    try:
        group = _delegated()
        if not group:
            return ""
        for name in os.listdir(group):
            if name.startswith(_NAME):
                with contextlib.suppress(OSError):  # somebody lives there
                    os.rmdir(os.path.join(group, name))
        place = os.path.join(group, f"{_NAME}{os.getpid()}")
        os.mkdir(place, 0o755)
        with open(os.path.join(place, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except OSError:
        return ""  # then it stays where it is, and lives on by `KillMode=process` all the same
    return place


def _delegated() -> str:
    """Return this process's group where it is a unit's of ours, which are delegated; else nothing.

    A shim that was started by another one is in that one's group, whose parent is meant. systemd
    has a mark for delegated groups, `user.delegate`, but not every version sets it.
    """
    with open(OWN, encoding="utf-8") as file:
        lines = file.read().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::/")), "")
    for mount in MOUNTS:
        if path and os.path.exists(os.path.join(mount, "cgroup.controllers")):
            group = mount + path
            if os.path.basename(group).startswith(_NAME):
                group = os.path.dirname(group)
            return group if _UNIT.fullmatch(os.path.basename(group)) else ""
    return ""
