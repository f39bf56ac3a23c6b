"""Where a daemon lives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmesh.clock import Clock

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a daemon lives.

    Attributes:
        environment: the daemon's, for commands that ask for variables by name.
    """

    state_dir: Path
    config_file: Path
    environment: Mapping[str, str]
    clock: Clock
