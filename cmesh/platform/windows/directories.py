"""The directories of Windows' known folders: settings roam with the user, all else stays here.

`%APPDATA%` and `%LOCALAPPDATA%` name them; without them they are at their usual place in the
user's profile. `install.ps1` puts the program at the same place.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["config", "data", "program", "runtime", "short_temporary", "state"]


def config(environment: Mapping[str, str], home: Path) -> Path:
    """Return the directory of what the user writes."""
    named = environment.get("APPDATA")
    return (Path(named) if named else home / "AppData" / "Roaming") / "cmesh"


def state(environment: Mapping[str, str], home: Path) -> Path:
    """Return the directory of what cmesh writes and an upgrade keeps."""
    return data(environment, home) / "state"


def data(environment: Mapping[str, str], home: Path) -> Path:
    """Return the directory of what the installer writes."""
    named = environment.get("LOCALAPPDATA")
    return (Path(named) if named else home / "AppData" / "Local") / "cmesh"


def program(environment: Mapping[str, str], home: Path) -> Path:
    """Return the path of the command that outlives upgrades."""
    return data(environment, home) / "bin" / "cmesh.cmd"


def runtime(environment: Mapping[str, str]) -> Path:
    """Return where a control socket goes whose usual path would be too long."""
    return Path(environment.get("TEMP") or tempfile.gettempdir())


def short_temporary(limit: int) -> str:
    """Return the directory for temporary files, however long its path is."""
    del limit
    return tempfile.gettempdir()
