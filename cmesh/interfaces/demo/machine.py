"""One machine of the demo: where it lives, and how its owner speaks to its daemon."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.config import TESTNET_VARIABLE
from cmesh.daemon.answers import StatusView
from cmesh.interfaces.client import ControlClient
from cmesh.paths import log_file
from cmesh.text import scrub

__all__ = ["DemoNode"]

LOG_LINES = 12


@dataclass(slots=True, kw_only=True)
class DemoNode:
    """One machine of the demo: its directories, its daemon and a control client of its owner."""

    name: str
    home: Path
    client: ControlClient
    process: asyncio.subprocess.Process | None = None
    connected: bool = False
    status: StatusView = field(default_factory=lambda: StatusView(version="", phase="setup"))

    @property
    def state(self) -> Path:
        """Return the state directory."""
        return self.home / "state"

    @property
    def config(self) -> Path:
        """Return the configuration directory."""
        return self.home / "config"

    @property
    def pid(self) -> int:
        """Return the daemon's process id; 0 before its start."""
        return self.process.pid if self.process else 0

    def environment(self) -> dict[str, str]:
        """Return what a command needs to speak to this node."""
        return {
            "CMESH_STATE_DIR": str(self.state),
            "CMESH_CONFIG_DIR": str(self.config),
            TESTNET_VARIABLE: "1",
        }

    def log_tail(self) -> str:
        """Return the last lines of the daemon's log."""
        with contextlib.suppress(OSError):
            lines = log_file(self.state).read_text("utf-8", "replace").splitlines()
            return scrub("\n".join(lines[-LOG_LINES:]))
        return ""
