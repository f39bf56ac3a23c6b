"""A real Claude Code on `middle` delegates on by its endpoint, its only MCP server."""

import pytest

from cmesh.model import Profile, TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command
from tests.system.daemon.machine import Machine

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        CLAUDE is None,
        reason="no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm",
    ),
]

KEY = "sk-ant-middle-0000"
LIMIT_S = 120.0


def rule(machine: Machine, runners: str, operations: str = '"task", "delegate"') -> str:
    return f"""
[[inbound.allow]]
name = "look"
peers = ["user:me@example.com"]
operations = [{operations}]
profiles = ["query"]
runners = [{runners}]
paths = ["{machine.base}/app"]
"""


async def test_claude_in_a_sandbox_hands_a_part_of_its_task_on(
    make_machine: MakeMachine, model: ModelServer
) -> None:
    first = await make_machine("first", OUTBOUND)
    middle, last = await make_machine("middle"), await make_machine("last")
    look = command("look", "/bin/cat")
    await last.configure(look + rule(last, '"command:look"'))
    place, far = middle.directory("app"), last.directory("app")
    key_file = middle.config / "claude.key"
    key_file.write_text(KEY, "utf-8")
    key_file.chmod(0o600)
    runner = f"""
[runners.claude]
program = "{CLAUDE}"
key_file = "{key_file}"
base_url = "{model.url}"
env = {{ CLAUDE_CODE_MAX_RETRIES = "1" }}
"""
    await middle.configure(OUTBOUND + look + runner + rule(middle, '"claude", "command:look"'))
    for machine in (last, middle, first):
        await machine.up()
    query = {"profile": Profile.QUERY, "wait_s": 0}
    await first.delegate("middle", "command:look", place, **query)
    await middle.trust(first)
    if "netns" not in (await middle.status()).enforcement:
        pytest.skip("no network namespaces here")
    asked = await middle.delegate("last", "command:look", far, **query)
    await last.trust(middle)
    await middle.ended(asked.task_id)
    order = {
        "peer": "last",
        "prompt": "hello from afar",
        "directory": str(far),
        "runner": "command:look",
        "profile": "query",
        "wait_s": 30,
    }
    model.scripts = {
        "hand on": [
            {"tool": "mcp__cmesh__delegate", "input": order},
            {"text": "it says {{last_tool_result}}"},
        ]
    }
    view = await first.delegate(
        "middle", "claude", place, prompt="ask <<fake:hand on>>", new=True, **query
    )
    view = await first.ended(view.task_id, LIMIT_S)
    assert view.state is TaskState.SUCCEEDED, view.model_dump_json()
    assert "hello from afar" in view.summary
    children = await middle.sql(f"SELECT state FROM tasks WHERE session = 'task:{view.task_id}'")
    assert children == [["succeeded"]]
    tools = [tool["name"] for body in model.requests for tool in body.get("tools", ())]
    assert {name for name in tools if name.startswith("mcp__")} <= {
        f"mcp__cmesh__{name}"
        for name in (
            "cancel_task",
            "delegate",
            "get_result",
            "get_task",
            "list_peers",
            "list_tasks",
        )
    }
    # Nothing of the endpoint went to the model, and the token stands in no argument.
    assert set(model.keys) == {KEY}
    codes = await middle.sql(
        f"SELECT DISTINCT code FROM connections WHERE task_id = '{view.task_id}' ORDER BY code"
    )
    assert codes == [["gateway"], ["mcp"]]
