"""Follow-up turns with the real Claude Code on the worker, against a scripted model.

A turn sees the turns before it, and every promise of a task holds for each of them.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import CancelArguments
from cmesh.errors import (
    CmeshError,
    RunnerCannot,
    SessionGone,
    TaskConflict,
    TaskRefused,
    TaskUnfinished,
)
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from tests.fakes.model_server import Json, ModelServer, fake_json
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import Machine, eventually, here, worker_user
from tests.system.daemon.test_claude_both_ends import CLAUDE, runner

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        CLAUDE is None,
        reason="no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm",
    ),
]

SECRET = "the word is plum"


@dataclass
class Scene:
    """A laptop, a builder with Claude Code, and the model that both would ask."""

    laptop: Machine
    builder: Machine
    model: ModelServer
    place: Path

    async def first(self, prompt: str, **more: object) -> str:
        view = await self.laptop.delegate("builder", "claude", self.place, prompt=prompt, **more)
        return view.task_id

    async def succeeded(self, task_id: str) -> None:
        view = await self.laptop.ended(task_id)
        assert view.state is TaskState.SUCCEEDED, view.reason

    def session(self, thread: str) -> Path:
        return self.builder.state / "sessions" / thread


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
async def scene(ground: Path, testnet: Testnet, model: ModelServer) -> AsyncIterator[Scene]:
    laptop = Machine("laptop", ground, testnet, here())
    builder = Machine("builder", ground, testnet, worker_user())
    place = builder.base / "app"
    async with AsyncExitStack() as stack:
        for machine in (laptop, builder):
            stack.push_async_callback(machine.stop)
        await laptop.configure(OUTBOUND)
        await builder.configure()
        builder.directory("app")
        key_file = builder.base / "config" / "claude.key"
        key_file.write_text("sk-ant-builder-0000", "utf-8")
        key_file.chmod(0o600)
        text = runner(key_file, model.url) + command("true", "/bin/true")
        await builder.configure(text + inbound(place, ["claude", "command:true"]))
        await builder.up()
        await laptop.up()
        await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        yield Scene(laptop, builder, model, place)


def says(*turns: Json | str) -> str:
    return fake_json(*({"text": turn} if isinstance(turn, str) else turn for turn in turns))


def heard(body: Json) -> list[tuple[str, str]]:
    """Return the conversation of a request: role and text, without what the agent adds."""
    found: list[tuple[str, str]] = []
    for message in body["messages"]:
        content = message["content"]
        plain: list[Json] = [{"type": "text", "text": content}]
        blocks = cast("list[Json]", content) if isinstance(content, list) else plain
        for block in blocks:
            text = str(block.get("text", ""))
            if block["type"] == "text" and message["role"] != "system" and "<system-" not in text:
                found.append((message["role"], text.partition(" <<fake")[0]))
    return found


async def test_a_second_turn_sees_the_first_and_is_a_task_of_its_own(scene: Scene) -> None:
    one = await scene.first(f"{SECRET} {says('noted')}")
    await scene.succeeded(one)
    [system] = [body["system"] for body in scene.model.requests if SECRET in str(body)][:1]
    assert "This task came by cmesh from me@example.com" not in str(system)
    assert "This task came by cmesh from me at example.com on the machine laptop." in str(system)
    before = await scene.laptop.task(one)
    assert (before.follow_up, before.turn, before.thread) == ("possible", 1, one)
    two = (await scene.laptop.reply(one, f"which word? {says('plum')}")).task_id
    await scene.succeeded(two)
    assert heard(scene.model.requests[-1]) == [
        ("user", SECRET),
        ("assistant", "noted"),
        ("user", "which word?"),
    ]
    for machine in (scene.laptop, scene.builder):
        first, second = await machine.task(one), await machine.task(two)
        assert (first.follow_up, first.followed_by) == ("followed", two)
        assert (second.follows, second.turn, second.thread) == (one, 2, one)
        assert (second.summary, second.follow_up) == ("plum", "possible")
        rows = await machine.sql(f"SELECT turns, last_task FROM threads WHERE thread = '{one}'")
        assert rows == [[2, two]]
    assert first.cost_usd is not None
    assert second.cost_usd == pytest.approx(first.cost_usd)
    [[allowed]] = await scene.builder.sql(
        f"SELECT operation FROM decisions WHERE task_id = '{two}'"
    )
    assert allowed == "follow_up"


async def test_turns_survive_a_killed_daemon_between_them_and_during_one(scene: Scene) -> None:
    one = await scene.first(f"{SECRET} {says('noted')}")
    await scene.succeeded(one)
    scene.builder.kill()
    await scene.builder.up()
    gate = scene.place / "gate"
    os.mkfifo(gate)
    gate.chmod(0o666)
    look = {"tool": "$shell", "input": {"command": "cat gate", "description": "wait"}}
    two = (
        await scene.laptop.reply(one, f"go on {says(look, 'it said {{last_tool_result}}')}")
    ).task_id
    writing = await asyncio.to_thread(gate.open, "w")  # opens once the agent of turn 2 reads
    scene.builder.kill()
    writing.write("go")
    writing.close()
    await scene.builder.up()
    await scene.succeeded(two)
    three = (await scene.laptop.reply(two, f"and now? {says('done')}")).task_id
    await scene.succeeded(three)
    assert [text for _, text in heard(scene.model.requests[-1])] == [
        SECRET,
        "noted",
        "go on",
        "it said go",
        "and now?",
    ]
    view = await scene.builder.task(three)
    assert (view.turn, view.thread) == (3, one)
    starts = await scene.builder.sql(
        "SELECT count(*) FROM events WHERE kind = 'running' AND task_id IN"
        f" ('{one}', '{two}', '{three}')"
    )
    assert starts == [[3]]


async def test_only_one_of_two_replies_is_the_next_turn(scene: Scene) -> None:
    one = await scene.first(f"begin {says('begun')}")
    with pytest.raises(TaskUnfinished):
        await scene.laptop.reply(one, "too early")
    await scene.succeeded(one)
    asked = [scene.laptop.reply(one, f"{name} {says('ok')}") for name in ("left", "right")]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    [won] = [answer.task_id for answer in answers if isinstance(answer, TaskView)]
    [lost] = [answer for answer in answers if isinstance(answer, CmeshError)]
    assert isinstance(lost, TaskConflict)
    assert won in lost.message
    await scene.succeeded(won)


async def test_the_same_reply_again_is_the_same_turn(scene: Scene) -> None:
    one = await scene.first(f"begin {says('begun')}")
    await scene.succeeded(one)
    prompt = f"wait {says({'text': 'ok', 'delay': 3})}"
    two = await scene.laptop.reply(one, prompt)
    again = await scene.laptop.reply(one, prompt)
    assert (again.task_id, again.duplicate_of) == (two.task_id, two.task_id)
    await scene.succeeded(two.task_id)


async def test_a_cancelled_and_an_interrupted_turn_end_the_conversation(scene: Scene) -> None:
    for end in ("cancelled", "interrupted"):
        one = await scene.first(f"begin {says({'hang': True})}")

        async def claimed(task_id: str = one) -> int | None:
            with contextlib.suppress(FileNotFoundError):
                agent = scene.builder.state / "tasks" / task_id / "agent"
                assert agent.stat().st_size
                return json.loads((agent.parent / "claim").read_text("utf-8"))["pid"]
            return None

        shim = await eventually(claimed)
        if end == "cancelled":
            await scene.laptop.call("cancel_task", CancelArguments(task_id=one))
        else:
            os.kill(shim, signal.SIGKILL)
        assert (await scene.laptop.ended(one)).state == end
        with pytest.raises(TaskRefused, match=f"ended {end}"):
            await scene.laptop.reply(one, "go on")


async def test_a_conversation_deleted_by_hand_is_refused_by_name(scene: Scene) -> None:
    one = await scene.first(f"begin {says('begun')}")
    await scene.succeeded(one)
    shutil.rmtree(scene.session(one))
    two = await scene.laptop.ended((await scene.laptop.reply(one, "go on")).task_id)
    assert (two.state, two.code) == (TaskState.DENIED, "session_gone")
    assert (await scene.laptop.task(one)).follow_up == "session_gone"
    with pytest.raises(SessionGone):
        await scene.laptop.reply(one, "go on")


async def test_a_command_keeps_no_conversation(scene: Scene) -> None:
    one = await scene.laptop.delegate("builder", "command:true", scene.place, new=True)
    await scene.succeeded(one.task_id)
    assert (await scene.laptop.task(one.task_id)).follow_up == "runner_cannot"
    with pytest.raises(RunnerCannot):
        await scene.laptop.reply(one.task_id, "go on")
