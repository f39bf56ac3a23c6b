"""A person's machine for the tests of registration: a home of its own, and no program in it."""

from collections.abc import Mapping
from pathlib import Path

from cmesh.platform.system import System
from cmesh.runner.programs import Programs
from cmesh.setup.surroundings import Surroundings

__all__ = ["machine"]


def machine(
    home: Path,
    *,
    command: tuple[str, ...] = ("/opt/cmesh/bin/cmesh", "mcp"),
    env: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    platform: System = "linux",
) -> Surroundings:
    return Surroundings(
        home=home,
        platform=platform,
        variables=variables or {},
        data=home / ".local/share/cmesh",
        command=command,
        env=env or {},
        programs=Programs("/nonexistent"),
        path="/nonexistent",
    )
