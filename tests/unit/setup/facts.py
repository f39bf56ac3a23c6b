"""Facts of a machine for tests of the wizard."""

from pathlib import Path
from typing import Any

from cmesh.configfile import starter_config
from cmesh.setup.facts import Facts, PeerFact, RunnerFact, UnitFact

__all__ = ["CONFIG", "UNIT", "UP", "facts", "peer"]

CONFIG = starter_config("laptop")
CLAUDE = RunnerFact(name="claude", program="/usr/bin/claude", sandboxed=True)
UNIT = UnitFact(
    name="cmesh", file=Path("/home/me/.config/systemd/user/cmesh.service"), wanted="[Unit]\n"
)
UP: dict[str, Any] = {"config": CONFIG, "phase": "up", "node": "laptop", "keep_text": "30d"}


def facts(**more: Any) -> Facts:
    base: dict[str, Any] = {
        "os": "linux",
        "arch": "x86_64",
        "host": "laptop.example.com",
        "home": Path("/home/me"),
        "config_file": Path("/home/me/.config/cmesh/config.toml"),
        "state_dir": Path("/home/me/.local/state/cmesh"),
        "project": "/home/me/src/app",
        "runners": (CLAUDE,),
    }
    return Facts(**(base | more))


def peer(**more: Any) -> PeerFact:
    base: dict[str, Any] = {
        "name": "builder",
        "node_id": "nBUILD",
        "online": True,
        "is_cmesh": True,
        "trust": "waiting",
        "fingerprint": "ab12 cd34",
    }
    return PeerFact(**(base | more))
