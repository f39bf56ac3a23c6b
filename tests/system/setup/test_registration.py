"""`cmesh mcp add`, `list` and `remove` with the real agents: they see the entry, and start it.

Each test has a home of its own; nothing is asked of a model but by the scripted one on loopback.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import AGENT_KEY, CLAUDE, CODEX, GEMINI, OPENCODE

RUN_LIMIT_S = 60.0
PROGRAMS = {"claude": CLAUDE, "codex": CODEX, "gemini": GEMINI, "opencode": OPENCODE}
SETTINGS = {
    "claude": (".claude.json", '{\n  "theme": "dark"\n}\n'),
    "codex": (".codex/config.toml", '# mine\n[mcp_servers.x]\ncommand = "/bin/cat" # so\n'),
    "gemini": (".gemini/settings.json", '{\n  // mine\n  "ui": {"theme": "GitHub"}\n}\n'),
    "opencode": (
        ".config/opencode/opencode.jsonc",
        '{\n  "$schema": "https://opencode.ai/config.json",\n  // mine\n  "share": "disabled",\n}\n',
    ),
}
LOOK = {
    "claude": ["mcp", "get", "cmesh"],
    "codex": ["mcp", "get", "cmesh"],
    "gemini": ["mcp", "list"],
    "opencode": ["mcp", "list"],
}
CODEX_MODEL = """
model = "fake-1"
model_provider = "fake"
web_search = "disabled"
[analytics]
enabled = false
[model_providers.fake]
name = "fake"
base_url = "{url}/v1"
env_key = "CODEX_API_KEY"
wire_api = "responses"
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


class Home:
    """A person's home with one agent in it, and what is run there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            "HOME": str(path),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(path),
            "NO_PROXY": "127.0.0.1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
        }

    def cmesh(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "cmesh", *words)

    def run(self, *argv: str, **variables: str) -> str:
        """Run a program to its end; return what it said on stdout."""
        done = subprocess.run(
            argv,
            cwd=self.path,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + (done.stderr if "gemini" in argv[0] else "")

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path


@pytest.fixture
def home() -> Iterator[Home]:
    # A socket's path is short, so its directory must be.
    with tempfile.TemporaryDirectory(prefix="cm-", ignore_cleanup_errors=True) as directory:
        found = Home(Path(directory))
        try:
            yield found
        finally:
            found.cmesh("down")


def program(name: str) -> str:
    found = PROGRAMS[name]
    if found is None:
        pytest.skip(f"no `{name}`: set CMESH_TEST_{name.upper()}, or install it under .cache/npm")
    return str(found)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_agent_sees_the_entry_and_its_settings_are_as_before_without_it(
    name: str, home: Home
) -> None:
    agent = program(name)
    place, text = SETTINGS[name]
    path = home.write(place, text)
    if name == "claude":
        home.run(agent, "mcp", "list")  # it adds fields of its own at its first start
    before = path.read_bytes()

    home.cmesh("mcp", "add", name)

    said = home.run(agent, *LOOK[name])
    assert "cmesh" in said
    assert "mcp" in said
    if name in {"claude", "opencode", "gemini"}:
        assert "onnected" in said  # it was started, and has answered
    if name == "codex":
        told = json.loads(home.run(agent, *LOOK[name], "--json"))
        assert (told["startup_timeout_sec"], told["tool_timeout_sec"]) == (30.0, 120.0)
    listed: list[dict[str, Any]] = json.loads(home.cmesh("mcp", "list", "--json"))["agents"]
    assert [one["registration"] for one in listed if one["agent"] == name] == ["current"]
    home.cmesh("mcp", "remove", name)
    assert path.read_bytes() == before


def test_claude_starts_it_and_asks_it(home: Home, model: ModelServer) -> None:
    agent = program("claude")
    home.cmesh("mcp", "add", "claude")
    model.scripts = {
        "setup": [
            {"tool": "mcp__cmesh__cmesh_status", "input": {}},
            {"text": "{{last_tool_result}}"},
        ]
    }
    said = home.run(
        *(agent, "-p", "<<fake:setup>>", "--allowedTools", "mcp__cmesh"),
        ANTHROPIC_API_KEY=AGENT_KEY,
        ANTHROPIC_BASE_URL=model.url,
        CLAUDE_CODE_MAX_RETRIES="1",
    )
    assert '"phase":"setup"' in said


def test_codex_starts_it_and_asks_it(home: Home, model: ModelServer) -> None:
    agent = program("codex")
    home.write(".codex/config.toml", CODEX_MODEL.format(url=model.url))
    home.cmesh("mcp", "add", "codex")
    model.scripts = {
        "setup": [
            {"tool": "mcp__cmesh__cmesh_status", "input": {}},
            {"text": "{{last_tool_result}}"},
        ]
    }
    said = home.run(
        *(agent, "exec", "--skip-git-repo-check", "-s", "danger-full-access", "--"),
        "<<fake:setup>>",
        CODEX_API_KEY=AGENT_KEY,
    )
    assert '"phase":"setup"' in said


def test_a_dry_run_and_a_taken_name_change_nothing(home: Home) -> None:
    path = home.write(".claude.json", '{"mcpServers": {"cmesh": {"command": "/bin/cat"}}}')
    (home.path / ".cursor").mkdir()
    before = path.read_bytes()
    shown = home.cmesh("mcp", "add", "cursor", "--dry-run")
    assert '+    "cmesh": {' in shown
    with pytest.raises(AssertionError, match="starts something else"):
        home.cmesh("mcp", "add", "--all")
    assert path.read_bytes() == before
    # One that fails stops no other.
    assert json.loads((home.path / ".cursor/mcp.json").read_text("utf-8"))["mcpServers"]["cmesh"]
