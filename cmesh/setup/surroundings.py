"""What of this machine decides where agents keep their settings, as one value. Blocks at most once.

The daemon has a fixed environment and a person's shell another one, so whoever asks says which.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.paths import config_dir, data_dir, named_variables, program_link, state_dir
from cmesh.platform import directories
from cmesh.platform.system import HERE, System
from cmesh.runner.programs import Programs

__all__ = ["VARIABLES", "Surroundings", "surroundings"]

VARIABLES = (
    "APPDATA",
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "GEMINI_CLI_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
)
"""What agents, or cmesh, look for their own places by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """A person's machine as agents see it.

    Attributes:
        variables: of `VARIABLES`, those that are set.
        data: cmesh's data directory, where the record and backups are.
        command: how an agent starts `cmesh mcp`: a program by its absolute path, and arguments.
        env: what that needs in its environment to reach this daemon; mostly nothing.
        programs: finds programs as a login shell does.
        path: of this process, where programs are looked for besides: a terminal often has more
            than a login shell.
    """

    home: Path
    platform: System
    variables: Mapping[str, str]
    data: Path
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    programs: Programs
    path: str = ""

    def find(self, program: str) -> str:
        """Return the absolute path of a program; empty = it is not there. Blocks at first."""
        return (
            self.programs.find(program) or shutil.which(program, path=self.path or os.defpath) or ""
        )

    def directory(self, variable: str, fallback: str) -> Path:
        """Return the directory that a variable names, else one below the home."""
        named = self.variables.get(variable)
        return Path(named) if named else self.home / fallback


def surroundings(programs: Programs | None = None) -> Surroundings:
    """Return those of this process's user. Blocks: a login shell is asked for its `PATH` once."""
    programs = programs or Programs()
    home = Path.home()
    return Surroundings(
        home=home,
        platform=HERE,
        variables=named_variables(VARIABLES),
        data=data_dir(),
        command=(*_program(programs), "mcp"),
        env=_needed_env(home),
        programs=programs,
        path=named_variables(("PATH",)).get("PATH", ""),
    )


def _program(programs: Programs) -> tuple[str, ...]:
    """Return what starts this very cmesh.

    The installer's link and the name on the login shell's `PATH` outlive an upgrade, so they go
    first where they lead here.
    """
    own = Path(sys.executable).parent / "cmesh"
    for found in (str(program_link()), programs.find("cmesh")):
        if found and own.is_file() and os.path.realpath(found) == os.path.realpath(own):
            return (found,)
    if own.is_file():
        return (str(own),)
    return (sys.executable, "-I", "-m", "cmesh")


def _needed_env(home: Path) -> dict[str, str]:
    """Return what names this daemon's directories where they are not the usual ones.

    An agent may hand its servers hardly any variables (codex passes four), so a place that a
    variable names has to stand in the entry itself.
    """
    needed: dict[str, str] = {}
    if state_dir() != directories.state({}, home):
        needed["CMESH_STATE_DIR"] = str(state_dir())
    if config_dir() != directories.config({}, home):
        needed["CMESH_CONFIG_DIR"] = str(config_dir())
    runtime = named_variables(("XDG_RUNTIME_DIR",))
    # A state directory with a long path has its socket below the runtime directory.
    return needed | runtime if needed else needed
