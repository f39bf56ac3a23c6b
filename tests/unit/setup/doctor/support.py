"""Facts of a machine where all is well, to change one thing of."""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cmesh.config import Config, load_config
from cmesh.policy.rules import FULL_CONSENT
from cmesh.setup.doctor.examine import examine
from cmesh.setup.doctor.facts import (
    AgentFact,
    ControlFact,
    DaemonFacts,
    Facts,
    PeerFact,
    PlaceFact,
    RunnerFact,
    ServiceFact,
    StateFacts,
)
from cmesh.setup.doctor.finding import Finding

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MIB = 1024 * 1024
RULE = """
[[inbound.allow]]
name = "the laptop may ask"
peers = ["node:nLAPTOP"]
operations = ["task"]
profiles = ["query"]
runners = ["claude"]
paths = ["/srv/app"]
limits = { runtime = "15m", concurrent = 2 }
"""
CONSENT = f'consent = "{FULL_CONSENT}"'

DAEMON = DaemonFacts(
    version="0.1.0", phase="up", pid=41, kind="service", node="builder", node_id="nBUILDER",
    user="me@example.com", tailnet="example.com", addresses=("100.64.0.1",),
    key_expiry=NOW + timedelta(days=90), worker=True, enforcement="tier 3",
    containment="pid_namespace", rows=12, search_path="/usr/bin",
    oldest_text=NOW - timedelta(days=3),
)  # fmt: skip
RUNNER = RunnerFact(
    name="claude", wanted=True, available=True, program="/usr/bin/claude", version="2.1.330",
    credential="gateway", test="passed", shell_program="/usr/bin/claude",
)  # fmt: skip
PEER = PeerFact(
    name="laptop", node_id="nLAPTOP", user="me@example.com", addresses=("100.64.0.2",), online=True,
    link="connected", trust="trusted", version="0.1.0", may_ask=("query",), runners=("codex",),
    direct=True, ping_ms=1.5,
)  # fmt: skip
STATE = StateFacts(
    path="/home/me/.local/state/cmesh",
    places=(
        PlaceFact(path="/home/me/.local/state/cmesh", mode=0o700, forbidden=0o077, directory=True),
        PlaceFact(path="/home/me/.config/cmesh/config.toml", mode=0o600, forbidden=0o022),
    ),
    file_system="ext4", store_holder=41, node_holder=41, socket="answers",
    socket_path="/home/me/.local/state/cmesh/control.sock", store=3 * MIB, free=9000 * MIB,
    floor=128 * MIB,
)  # fmt: skip


def config(text: str = RULE) -> Config:
    """Return what a configuration file of this text is read as."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.toml"
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        return load_config(path)


def well(**changes: Any) -> Facts:
    """Return facts that give no warning, with some fields otherwise."""
    facts = Facts(
        now=NOW,
        version="0.1.0",
        home="/home/me",
        config_file="/home/me/.config/cmesh/config.toml",
        state=STATE,
        config=config(),
        daemon=DAEMON,
        control=ControlFact(url="https://control.example.com", reached=True, offset_s=0.4),
        runners=(RUNNER,),
        peers=(PEER,),
        agents=(AgentFact(name="claude", entry="current", file="/home/me/.claude.json"),),
        service=ServiceFact(
            manager="systemd", installed=True, enabled=True, active=True, lingers=True
        ),
    )
    return replace(facts, **changes)


def found(facts: Facts, group: str, check: str) -> Finding:
    """Return the one finding of a check that is not well, else the first."""
    of_check = [one for one in examine(facts).findings if (one.group, one.check) == (group, check)]
    assert of_check, [(one.group, one.check) for one in examine(facts).findings]
    return next((one for one in of_check if one.level != "ok"), of_check[0])
