"""`cmesh uninstall` after a real installation: the home is as it was before it."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.system.setup.home import Home

LIMIT_S = 60.0
EVERYTHING = ("--yes-config", "--yes-logins", "--yes-identity", "--yes-store", "--yes-program")

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def used(home: Home, present: Path) -> None:
    """Install cmesh in a home with agents in it, and let a daemon run there."""
    done = home.install(present, "--uv", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cmesh" in (home.path / ".claude.json").read_text("utf-8")
    home.cmesh("tasks")  # starts a daemon, which has nothing to do
    assert json.loads(home.cmesh("status", "--json").stdout)["phase"] == "setup"
    config = home.path / ".config" / "cmesh"
    config.mkdir(parents=True, exist_ok=True)
    # A control server that nobody runs: nothing leaves this machine.
    (config / "config.toml").write_text('[node]\ncontrol_url = "http://127.0.0.1:9"\n', "utf-8")


def test_a_home_is_as_it_was_before_the_installation(home: Home, present: Path) -> None:
    (home.path / ".bashrc").write_text("alias ll='ls -l'", "utf-8")
    (home.path / ".claude.json").write_text('{"theme":"dark","mcpServers":{}}', "utf-8")
    (home.path / ".codex").mkdir()
    (home.path / ".codex" / "config.toml").write_text("# mine\nmodel = 'o'", "utf-8")
    (home.path / ".cursor").mkdir()
    before = home.snapshot()
    used(home, present)
    assert home.snapshot() != before

    shown = home.cmesh("uninstall", "--dry-run", "--json")
    told = json.loads(shown.stdout)
    assert {one["agent"] for one in told["agents"]} == {"claude", "codex", "cursor"}
    assert {one["name"] for one in told["items"]} == {"config", "identity", "store", "program"}

    done = home.cmesh("uninstall", *EVERYTHING, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["kept"], told["notes"]) == ([], [])
    assert home.snapshot() == before


def test_at_a_terminal_each_part_is_asked_for_and_a_no_keeps_it(home: Home, present: Path) -> None:
    (home.path / ".claude.json").write_text("{}\n", "utf-8")
    used(home, present)
    controller, terminal = pty.openpty()
    # Uninstall, config (twice), identity, store, program: in the order in which they are asked.
    os.write(controller, b"\nmaybe\ny\nn\nn\ny\n")
    done = subprocess.run(
        [home.link, "uninstall"],
        env=home.variables,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        timeout=LIMIT_S,
        check=False,
    )
    said = os.read(controller, 65536).decode()
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 0, said
    assert not home.link.exists()
    assert not home.data.exists()
    assert not (home.path / ".config" / "cmesh").exists()
    state = home.path / ".local" / "state" / "cmesh"
    assert {"key", "store"} <= {one.name for one in state.iterdir()}
    assert (home.path / ".claude.json").read_text("utf-8") == "{}\n"
    assert "kept the store" in said
    assert "answer y or n" in said
    assert f"{home.path}/.bashrc  (the lines of cmesh's alone)" in said
