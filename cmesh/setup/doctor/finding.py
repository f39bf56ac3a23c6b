"""One line of the check list: what was looked at, how it stands, and the next step."""

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["GROUPS", "Finding", "Fix", "Group", "Level"]

Level = Literal["ok", "note", "skipped", "warning", "problem"]
"""`problem`: something does not work, or lets others in. `warning`: it will not work, or grants
more than most want. `note`: worth knowing. `skipped`: it could not be looked at."""

Fix = Literal["", "mode", "socket", "mark", "agent", "service"]
"""What `cmesh doctor --fix` may do about it; empty = that is the owner's to do."""

GROUPS = ("installation", "node", "store", "sandbox", "runners", "agents", "policy", "peers")
"""The groups of the check list, in the order shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        check: its stable name within the group, such as `key`.
        next: the next step, a literal command or a sentence; empty when nothing is to be done.
        target: what a fix changes: a path, or an agent's name.
        bits: permission bits that a fix takes away.
    """

    group: str
    check: str
    level: Level
    what: str
    next: str = ""
    fix: Fix = ""
    target: str = ""
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Makes the findings of one group."""

    name: str

    def ok(self, check: str, what: str) -> Finding:
        """Return that all is well."""
        return Finding(group=self.name, check=check, level="ok", what=what)

    def note(self, check: str, what: str, step: str = "") -> Finding:
        """Return what is worth knowing and costs nothing."""
        return Finding(group=self.name, check=check, level="note", what=what, next=step)

    def skipped(self, check: str, what: str, step: str = "") -> Finding:
        """Return that something could not be looked at."""
        return Finding(group=self.name, check=check, level="skipped", what=what, next=step)

    def warning(
        self, check: str, what: str, step: str, *, fix: Fix = "", target: str = ""
    ) -> Finding:
        """Return what will not work, or grants much."""
        return replace(self.note(check, what, step), level="warning", fix=fix, target=target)

    def problem(
        self, check: str, what: str, step: str, *, fix: Fix = "", target: str = ""
    ) -> Finding:
        """Return what does not work, or lets others in."""
        return replace(self.note(check, what, step), level="problem", fix=fix, target=target)
