"""What a service manager is to keep: the daemon of one state directory, as a value. Pure.

Each manager writes it in its own form: `systemd`, `launchd`, `windows_task`.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmesh.errors import ServiceFailed

__all__ = ["HANDED_OVER", "Change", "Kind", "Standing", "Unit", "is_unit_name", "unit_name"]

Kind = Literal["systemd", "launchd", "windows"]

HANDED_OVER = 75
"""What a daemon exits with that is to be started again at once; equal to the daemon's own."""

_NAME = re.compile(r"cmesh(-[0-9a-f]{8})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A daemon to keep.

    Attributes:
        name: of the unit, `cmesh` or `cmesh-` and eight hex digits; see `unit_name`.
        argv: program by its absolute path, and arguments.
        environment: all that it gets.
        down_mark: file whose presence means that `cmesh down` was the last word.
        log: file that its output is added to.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    down_mark: str
    log: str

    def __post_init__(self) -> None:
        """Refuse what no unit file can hold.

        Raises:
            ServiceFailed: a line break stands in a path or variable.
        """
        for text in (*self.argv, *self.environment.values(), self.down_mark, self.log):
            if any(ord(character) < ord(" ") for character in text):
                raise ServiceFailed(
                    f"a service manager cannot be given `{text!r}`",
                    hint="name directories without line breaks by CMESH_STATE_DIR",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of an installation or a removal; either a file or a command.

    Attributes:
        write: the file's new content; None with `path` set = it is removed.
        argv: a command of the manager; it may fail where `may_fail` says so.
    """

    path: Path | None = None
    write: str | None = None
    argv: tuple[str, ...] = ()
    may_fail: bool = False

    @property
    def label(self) -> str:
        """Return what it does, in one line."""
        if self.path is None:
            return f"run {' '.join(self.argv)}"
        return f"remove {self.path}" if self.write is None else f"write {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a unit stands with its manager.

    Attributes:
        enabled: it starts by itself at log-in, or at boot where it lingers.
        lingers: it runs without a log-in of its user; None = no such question.
        detail: the manager's own words.
    """

    enabled: bool = False
    active: bool = False
    pid: int = 0
    lingers: bool | None = None
    detail: str = ""


def unit_name(state: Path, default: Path) -> str:
    """Return the unit's name: each state directory has its own, the default one a plain one."""
    if state == default:
        return "cmesh"
    return f"cmesh-{hashlib.sha256(os.fsencode(state)).hexdigest()[:8]}"


def is_unit_name(name: str) -> bool:
    """Say whether a name is of the form that `unit_name` gives."""
    return _NAME.fullmatch(name) is not None
