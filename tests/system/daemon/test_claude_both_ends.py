"""A real Claude Code delegates through `cmesh mcp` to a real Claude Code on another machine.

Both ask a scripted model on loopback; everything between them is real.
"""

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from cmesh.model import TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import AGENT_KEY, CLAUDE, claude_run
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, inbound
from tests.system.daemon.machine import Machine, here

RUN_LIMIT_S = 50.0
BUILDER_KEY = "sk-ant-builder-0000"
FINDING = "port 8080 is taken by the old release"


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        CLAUDE is None,
        reason="no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm",
    ),
]


def runner(key_file: Path, url: str) -> str:
    """Return the table of the builder's agent."""
    return f"""
[runners.claude]
program = "{CLAUDE}"
key_file = "{key_file}"
base_url = "{url}"
env = {{ CLAUDE_CODE_MAX_RETRIES = "1" }}
"""


async def ask(machine: Machine, url: str, prompt: str) -> str:
    """Run the laptop's own agent, with cmesh as its only server; return what it says at last."""
    run = claude_run(machine, url, prompt)
    done = await asyncio.to_thread(
        subprocess.run,
        run.argv,
        cwd=run.directory,
        env=run.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["result"]


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool": f"mcp__cmesh__{tool}", "input": arguments}


async def test_claude_on_one_machine_gets_the_answer_of_claude_on_another(
    make_machine: MakeMachine, model: ModelServer
) -> None:
    laptop = await make_machine("laptop", OUTBOUND, user=here())
    builder = await make_machine("builder")
    place = builder.directory("app")
    (place / "deploy.log").write_text(f"ERROR {FINDING}\n", "utf-8")
    key_file = builder.base / "config" / "claude.key"
    key_file.write_text(BUILDER_KEY, "utf-8")
    key_file.chmod(0o600)
    await builder.configure(runner(key_file, model.url) + inbound(place, ["claude"]))
    await builder.up()
    await laptop.up()
    # A first contact waits for the builder's owner, whatever becomes of the task.
    first = await laptop.delegate("builder", "claude", place, prompt="<<fake:hello>>")
    await builder.trust(laptop)
    assert (await laptop.ended(first.task_id)).state is TaskState.SUCCEEDED
    task = "{{match:task_id\\W+([0-9a-f-]{36})}}"
    look = {"command": "cat deploy.log", "description": "look"}
    model.reset()
    model.scripts = {
        "laptop": [
            call("list_peers"),
            call(
                "delegate",
                peer="builder",
                prompt="why did the deploy fail? <<fake:builder>>",
                directory=str(place),
                runner="claude",
                profile="full",
                wait_s=40,
            ),
            call("get_task", task_id=task),
            call("get_result", task_id=task),
            {"text": "The other machine says: {{last_tool_result}}"},
        ],
        "builder": [{"tool": "$shell", "input": look}, {"text": "because {{last_tool_result}}"}],
    }
    said = await ask(laptop, model.url, "ask the builder <<fake:laptop>>")
    assert f"because ERROR {FINDING}" in said
    [[task_id, there]] = await laptop.sql(
        "SELECT task_id, peer FROM tasks WHERE prompt LIKE 'why did%'"
    )
    assert there.startswith("builder")
    _is_fenced(said, f"because ERROR {FINDING}")
    for machine in (laptop, builder):
        view = await machine.task(task_id)
        assert (view.state, view.credential) == (TaskState.SUCCEEDED, "exposed")
    _assert_conversations(model, task_id)
    written = [entry.name for entry in place.iterdir()]
    assert written == ["deploy.log"]


def _is_fenced(said: str, text: str) -> None:
    before, _, after = said.partition(text)
    assert before.rpartition("<<<cmesh:")[2].count("cmesh:") == 0
    assert "cmesh:" in after


def _assert_conversations(model: ModelServer, task_id: str) -> None:
    """Each agent asked with its own login, and the first one was told what to call next."""
    keys: dict[str, set[str]] = {"laptop": set(), "builder": set()}
    heard = ""
    for body, key in zip(model.requests, model.keys, strict=True):
        first = json.dumps(body["messages"][:1])
        name = "builder" if "<<fake:builder>>" in first else "laptop"
        keys[name].add(key)
        if name == "laptop":
            heard = json.dumps(body["messages"])
    assert keys == {"laptop": {AGENT_KEY}, "builder": {BUILDER_KEY}}
    assert "next" in heard
    assert re.search(rf"get_result\(task_id=\W*{task_id}", heard)
