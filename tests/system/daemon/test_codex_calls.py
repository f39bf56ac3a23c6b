"""A real codex delegates through `cmesh mcp`, and waits for the result.

It asks a scripted model on loopback; everything from there to the other machine is real.
"""

import asyncio
import json
import subprocess
from typing import Any

import pytest

from cmesh.model import TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import AGENT_KEY, CODEX, codex_run
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, here

RUN_LIMIT_S = 50.0
FINDING = "port 8080 is taken by the old release"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        CODEX is None,
        reason="no `codex`: set CMESH_TEST_CODEX, or install it under .cache/npm",
    ),
]


async def events_of(machine: Machine, url: str, prompt: str) -> list[dict[str, Any]]:
    """Run codex on the laptop; return what it says of its run."""
    run = codex_run(machine, url, prompt)
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
    return [json.loads(line) for line in done.stdout.splitlines()]


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool": f"mcp__cmesh__{tool}", "input": arguments}


async def test_codex_on_one_machine_gets_the_result_of_a_task_on_another(
    make_machine: MakeMachine, model: ModelServer
) -> None:
    laptop = await make_machine("laptop", OUTBOUND, user=here())
    builder = await make_machine("builder")
    place = builder.directory("app")
    look = command("look", "/bin/sh", "-c", f"read asked; echo $asked ERROR {FINDING}")
    await builder.configure(look + inbound(place, ["command:look"]))
    await asyncio.gather(builder.up(), laptop.up())
    first = await laptop.delegate("builder", "command:look", place, prompt="hello")
    await builder.trust(laptop)
    assert (await laptop.ended(first.task_id)).state is TaskState.SUCCEEDED
    task = "{{match:task_id\\W+([0-9a-f-]{36})}}"
    model.scripts = {
        "laptop": [
            call("list_peers"),
            call(
                "delegate",
                peer="builder",
                prompt="why?",
                directory=str(place),
                runner="command:look",
                profile="full",
                wait_s=40,
            ),
            call("get_result", task_id=task),
            {"text": "The other machine says: {{last_tool_result}}"},
        ],
    }
    events = await events_of(laptop, model.url, "ask the builder <<fake:laptop>>")
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    calls = [item for item in items if item["type"] == "mcp_tool_call"]
    assert [(one["tool"], one["status"]) for one in calls] == [
        ("list_peers", "completed"),
        ("delegate", "completed"),
        ("get_result", "completed"),
    ]
    task_id = calls[1]["result"]["structured_content"]["task_id"]
    [said] = [item["text"] for item in items if item["type"] == "agent_message"]
    before, answer, after = said.partition(f"why? ERROR {FINDING}")
    # What the other machine wrote reached the model as data, inside a fence.
    assert answer, said
    assert before.rpartition("<<<cmesh:")[2].count("cmesh:") == 0
    assert "cmesh:" in after
    for machine in (laptop, builder):
        assert (await machine.task(task_id)).state is TaskState.SUCCEEDED
    assert set(model.keys) == {AGENT_KEY}
