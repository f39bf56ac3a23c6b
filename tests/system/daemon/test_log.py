"""The log of a delegation, on both machines: a line for each task and link, and no text of any."""

import asyncio
import json
import re
from typing import Any

import pytest

from cmesh.daemon.arguments import CancelArguments
from cmesh.model import TaskState
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

CANARY = "canary"
COMMANDS = {
    "loud": ("/bin/sh", "-c", "echo canary-out; echo canary-err >&2; cat; exit 3", "canary-argv"),
    "sleep": ("/bin/sh", "-c", "echo canary-out; exec sleep 300"),
}


def objects(machine: Machine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in machine.log.read_text("utf-8").splitlines()]


async def test_each_task_and_link_has_one_line_on_each_side_and_no_text_is_in_it(
    make_machine: MakeMachine,
) -> None:
    builder = await make_machine("builder")
    place = builder.directory("canary-app")
    text = "".join(command(name, *argv) for name, argv in COMMANDS.items())
    rule = inbound(place, [f"command:{name}" for name in COMMANDS])
    await builder.configure(text + rule + '\n[log]\nformat = "json"\n')
    laptop = await make_machine("laptop", OUTBOUND)
    await asyncio.gather(laptop.up(), builder.up())
    loud = (await laptop.delegate("builder", "command:loud", place, prompt="canary-in")).task_id
    await builder.trust(laptop)
    assert (await laptop.ended(loud)).exit_code == 3
    sleep = (await laptop.delegate("builder", "command:sleep", place, prompt="canary-two")).task_id

    async def runs() -> bool | None:
        return (await laptop.task(sleep)).state is TaskState.RUNNING or None

    await eventually(runs)
    await laptop.call("cancel_task", CancelArguments(task_id=sleep, reason="canary-reason"))
    assert (await laptop.ended(sleep)).state is TaskState.CANCELLED
    refused = await laptop.delegate("builder", "command:other", place, prompt="canary-three")
    assert (await laptop.ended(refused.task_id)).state is TaskState.DENIED
    await laptop.stop()

    async def down() -> dict[str, Any] | None:
        return next((one for one in objects(builder) if one["event"] == "link_down"), None)

    link = await eventually(down)
    assert link["frames_in"] > 3
    assert link["bytes_out"] > 0
    assert link["lasted_s"] >= 0
    ends = [one for one in objects(builder) if one["event"] == "task_ended"]
    assert [(one["task"], one["state"]) for one in ends] == [
        (loud, "failed"), (sleep, "cancelled"), (refused.task_id, "denied"),
    ]  # fmt: skip
    assert {"waited_s", "ran_s", "exit", "tier", "trace", "output_bytes"} <= ends[0].keys()
    assert (ends[0]["exit"], ends[0]["way"], ends[0]["peer"]) == (3, "in", "laptop")
    lines = [line for line in laptop.log.read_text("utf-8").splitlines() if " task_ended " in line]
    told = [dict(re.findall(r"(\w+)=('[^']*'|\S+)", line)) for line in lines]
    assert [one["task"] for one in told] == [one["task"] for one in ends]
    assert [one["trace"] for one in told] == [one["trace"] for one in ends]
    for machine in (laptop, builder):
        informed = [
            line
            for line in machine.log.read_text("utf-8").splitlines()
            if not re.search(r'"level": "(warning|error)"| (warning|error) ', line)
        ]
        assert informed
        assert CANARY not in "\n".join(informed)
