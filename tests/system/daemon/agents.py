"""Real agent CLIs as callers: how each is started with `cmesh mcp` as its only server.

They ask the scripted model on loopback, with a home of their own below the machine's.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.daemon.machine import Machine

__all__ = [
    "AGENT_KEY",
    "CLAUDE",
    "CODEX",
    "GEMINI",
    "NPM",
    "OPENCODE",
    "AgentRun",
    "claude_run",
    "codex_run",
    "run_of",
]

AGENT_KEY = "sk-ant-laptop-0000"
"""The login of the calling agent; whoever works for it has another one."""

NPM = Path(__file__).parents[3] / ".cache/npm/node_modules"
START_LIMIT_S = 30
CALL_LIMIT_S = 60

# Without `required` codex begins its turn without a server that is slow to start; without the
# approval mode `codex exec` refuses every call, since there is nobody to ask.
_CODEX_CONFIG = """
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
request_max_retries = 1
stream_max_retries = 1
[mcp_servers.cmesh]
command = {command}
args = {arguments}
required = true
default_tools_approval_mode = "approve"
startup_timeout_sec = {start_s}
tool_timeout_sec = {call_s}
[mcp_servers.cmesh.env]
{variables}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """How to start an agent once: one process, one conversation.

    Attributes:
        name: `claude` or `codex`.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path


def _program(variable: str, pattern: str) -> Path | None:
    named = os.environ.get(variable)
    if named:
        return Path(named)
    return next(iter(sorted(NPM.glob(pattern))), None)


CLAUDE = _program("CMESH_TEST_CLAUDE", ".bin/claude")
# Not npm's wrapper, which would leave the program alone when it is killed.
CODEX = _program("CMESH_TEST_CODEX", "@openai/codex-*/vendor/*/bin/codex")
GEMINI = _program("CMESH_TEST_GEMINI", ".bin/gemini")
OPENCODE = _program("CMESH_TEST_OPENCODE", "opencode-linux-*/bin/opencode")


def run_of(name: str, machine: Machine, url: str, prompt: str) -> AgentRun:
    """Return a run of the agent of that name."""
    return {"claude": claude_run, "codex": codex_run}[name](machine, url, prompt)


def claude_run(machine: Machine, url: str, prompt: str) -> AgentRun:
    """Return a run of Claude Code that prints one JSON object at its end."""
    home = machine.directory("claude")
    server = {
        "type": "stdio",
        "command": machine.command()[0],
        "args": machine.command("mcp")[1:],
        "env": machine.environment(),
    }
    argv = [str(CLAUDE), "-p", prompt, "--output-format", "json", "--setting-sources", "user"]
    argv += ["--mcp-config", json.dumps({"mcpServers": {"cmesh": server}}), "--strict-mcp-config"]
    argv += ["--allowedTools", "mcp__cmesh"]
    environment = {
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "ANTHROPIC_API_KEY": AGENT_KEY,
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    return AgentRun(
        name="claude",
        argv=tuple(argv),
        environment=_basic(home) | environment,
        directory=home,
    )


def codex_run(machine: Machine, url: str, prompt: str) -> AgentRun:
    """Return a run of codex that prints one JSON event a line."""
    home = machine.directory("codex")
    variables = "".join(f"{key} = {json.dumps(value)}\n" for key, value in _variables(machine))
    config = _CODEX_CONFIG.format(
        url=url,
        command=json.dumps(machine.command()[0]),
        arguments=json.dumps(machine.command("mcp")[1:]),
        start_s=START_LIMIT_S,
        call_s=CALL_LIMIT_S,
        variables=variables,
    )
    (home / "config.toml").write_text(config, "utf-8")
    environment = {"CODEX_HOME": str(home), "CODEX_API_KEY": AGENT_KEY}
    return AgentRun(
        name="codex",
        argv=(str(CODEX), "exec", "--json", "--skip-git-repo-check", "--", prompt),
        environment=_basic(home) | environment,
        directory=home,
    )


def _variables(machine: Machine) -> list[tuple[str, str]]:
    return sorted(machine.environment().items())


def _basic(home: Path) -> dict[str, str]:
    path = os.environ["PATH"]
    return {"PATH": path, "HOME": str(home), "TMPDIR": str(home), "NO_PROXY": "127.0.0.1"}
