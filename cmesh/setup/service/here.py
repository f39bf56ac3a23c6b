"""The unit that this installation would give to a service manager, and how it stands here."""

import sys
from pathlib import Path

from cmesh.config import environment
from cmesh.paths import daemon_environment, default_state_dir, log_file, program_link
from cmesh.setup.facts import UnitFact
from cmesh.setup.service import manager, systemd
from cmesh.setup.service.manager import Surroundings
from cmesh.setup.service.unit import Unit, unit_name

__all__ = ["surroundings", "unit_fact", "unit_of"]

_PATH = "/usr/local/bin:/usr/bin:/bin"
"""The daemon needs no more: agents are looked for on the login shell's path."""


def surroundings(state: Path) -> Surroundings:
    """Return where the unit is installed."""
    return Surroundings(home=Path.home(), environment=environment(), state=state)


def unit_of(state: Path, config: Path) -> Unit:
    """Return the unit of a state directory; the same whatever shell asks."""
    given = daemon_environment(state, config)
    given.pop("XDG_RUNTIME_DIR", None)  # the manager's to say
    return Unit(
        name=unit_name(state, default_state_dir()),
        argv=(*_program(), "daemon", "--service"),
        environment={**given, "PATH": _PATH, "LANG": "C.UTF-8"},
        down_mark=str(state / "down"),
        log=str(log_file(state)),
    )


def unit_fact(state: Path, config: Path) -> UnitFact | None:
    """Return what the wizard may offer; None = no systemd of this user runs. Blocks on the disk.

    Raises:
        ServiceFailed: no unit file can hold the directories' names.
    """
    around = surroundings(state)
    if manager.which(around) != "systemd":
        return None
    unit = unit_of(state, config)
    file = manager.unit_file("systemd", unit.name, around)
    return UnitFact(
        name=unit.name,
        file=file,
        wanted=systemd.unit_text(unit),
        found=manager.read_unit(file),
        lingers=systemd.lingers(),
    )


def _program() -> tuple[str, ...]:
    """Return how cmesh is started: by the installer's link, which outlives an upgrade, if it is ours."""
    link = program_link()
    mine = Path(sys.executable).parent / "cmesh"
    if link.is_symlink() and mine.exists() and link.resolve() == mine.resolve():
        return (str(link),)
    return (sys.executable, "-I", "-m", "cmesh")
