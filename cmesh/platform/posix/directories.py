"""The directories of the XDG Base Directory Specification, on macOS too.

A program of the terminal keeps to them there as well, so that one page of the documentation and
one set of dotfiles are right on both.
"""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["config", "data", "program", "runtime", "short_temporary", "state"]


def config(environment: Mapping[str, str], home: Path) -> Path:
    """Return the directory of what the user writes."""
    return _base(environment, "XDG_CONFIG_HOME", home / ".config")


def state(environment: Mapping[str, str], home: Path) -> Path:
    """Return the directory of what cmesh writes and an upgrade keeps."""
    return _base(environment, "XDG_STATE_HOME", home / ".local" / "state")


def data(environment: Mapping[str, str], home: Path) -> Path:
    """Return the directory of what the installer writes."""
    return _base(environment, "XDG_DATA_HOME", home / ".local" / "share")


def program(environment: Mapping[str, str], home: Path) -> Path:
    """Return the path of the command that outlives upgrades."""
    del environment
    return home / ".local" / "bin" / "cmesh"


def runtime(environment: Mapping[str, str]) -> Path:
    """Return where a control socket goes whose usual path would be too long."""
    return Path(environment.get("XDG_RUNTIME_DIR") or f"/tmp/cmesh-{os.getuid()}")  # noqa: S108


def short_temporary(limit: int) -> str:
    """Return the directory for temporary files; `/tmp` where its path is longer than `limit`."""
    import tempfile  # what reads a path only is to start without it

    usual = tempfile.gettempdir()
    return usual if len(usual) <= limit else "/tmp"  # noqa: S108 - the caller makes its own below


def _base(environment: Mapping[str, str], variable: str, usual: Path) -> Path:
    named = environment.get(variable)
    return (Path(named) if named else usual) / "cmesh"
