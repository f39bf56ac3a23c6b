"""Which service manager keeps the daemon of a state directory: a small file there.

Standard library and errors only: whoever starts a daemon reads it first. What is read back
is checked: it names a manager and a unit, never a command.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from cmesh.paths import replace_file
from cmesh.setup.service import launchd, systemd, windows_task
from cmesh.setup.service.unit import Kind, is_unit_name

__all__ = ["Kept", "forget", "read_kept", "record_kept", "start_kept"]

COMMAND_LIMIT_S = 20.0
"""How long a service manager may take for one command."""

_KINDS: Mapping[object, Kind] = {
    "systemd": "systemd",
    "launchd": "launchd",
    "windows": "windows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The unit of a state directory.

    Attributes:
        file: the manager's description of it.
        program: what it starts, an absolute path.
    """

    manager: Kind
    name: str
    file: str
    program: str


def read_kept(state: Path) -> Kept | None:
    """Return the unit that keeps this state directory's daemon; None = none does."""
    try:
        raw: object = json.loads(_file(state).read_bytes())
    except (OSError, ValueError):
        return None
    fields = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    manager, name = fields.get("manager"), fields.get("name")
    file, program = fields.get("file"), fields.get("program")
    if not (isinstance(name, str) and isinstance(file, str) and isinstance(program, str)):
        return None
    found = _KINDS.get(manager)
    if found is None or not is_unit_name(name) or not Path(file).exists():
        return None
    return Kept(manager=found, name=name, file=file, program=program)


def record_kept(state: Path, kept: Kept) -> None:
    """Write it down, whole or not at all; mode 0600."""
    replace_file(_file(state), json.dumps(asdict(kept)).encode())


def forget(state: Path) -> None:
    """Take the file away."""
    _file(state).unlink(missing_ok=True)


def start_kept(kept: Kept, environment: Mapping[str, str]) -> str:
    """Have the manager start the unit; return why it did not, or nothing. Blocks.

    `environment` is this process's; a manager is reached from shells that know little of it.
    """
    why = ""
    for argv in _start(kept):
        try:
            done = subprocess.run(  # noqa: S603 - fixed words and a checked name
                argv,
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT_S,
                check=False,
                env={**environment, **systemd.environment(environment, os.getuid())}
                if kept.manager == "systemd"
                else dict(environment),
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        why = "" if done.returncode == 0 else (done.stderr or done.stdout).strip()
    return why


def _start(kept: Kept) -> list[tuple[str, ...]]:
    if kept.manager == "systemd":
        return systemd.start(kept.name)
    if kept.manager == "launchd":
        return launchd.start(kept.name, uid=os.getuid())
    return windows_task.start(kept.name)


def _file(state: Path) -> Path:
    return state / "service.json"
