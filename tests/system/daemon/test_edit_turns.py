"""Follow-up turns of profile `edit`, by the real Claude Code: each goes on with the last patch."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.fakes.model_server import ModelServer, fake_json
from tests.system.daemon.agents import CLAUDE
from tests.system.daemon.conftest import OUTBOUND
from tests.system.daemon.machine import Machine, worker_user
from tests.system.daemon.test_apply import clone, give
from tests.system.daemon.test_claude_both_ends import runner
from tests.system.daemon.test_edit import TOKEN
from tests.system.patch.trees import raw
from tests.system.runner.copying import commit, git

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        CLAUDE is None,
        reason="no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm",
    ),
]

SENDS = OUTBOUND.replace("profiles =", "send_changes = true\nprofiles =")


@dataclass
class Scene:
    """A laptop, a builder with Claude Code that may edit, and the laptop's clone of its tree."""

    laptop: Machine
    builder: Machine
    place: Path
    home: Path

    async def turn(self, command: str, after: str = "", **more: object) -> TaskView:
        """Let the model order a command in a first turn, or in the one after a task."""
        if after:
            view = await self.laptop.reply(after, ordered(command))
        else:
            fields = {"profile": Profile.EDIT, "prompt": ordered(command), "new": True, **more}
            view = await self.laptop.delegate(self.builder.name, "claude", self.place, **fields)
        ended = await self.laptop.ended(view.task_id)
        return await self.laptop.task(ended.task_id)


def ordered(command: str) -> str:
    """Return a prompt on which the model orders a command, and says what came of it."""
    order = {"tool": "$shell", "input": {"command": command, "description": "work"}}
    marker = fake_json(order, {"text": "done: {{last_tool_result}}"}).removesuffix(">>")
    return "go on " + marker.replace(">", "\\u003e") + ">>"  # a command's own would end it


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
async def pair(
    ground: Path, testnet: Testnet, model: ModelServer
) -> AsyncIterator[tuple[Machine, Machine]]:
    laptop = Machine("turns", ground, testnet, worker_user())
    builder = Machine("edits", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine in (laptop, builder):
            stack.push_async_callback(machine.stop)
        await laptop.configure(SENDS)
        await builder.configure()
        key_file = builder.base / "config" / "claude.key"
        key_file.write_text("sk-ant-builder-0000", "utf-8")
        key_file.chmod(0o600)
        rule = f"""
[[inbound.allow]]
name = "the laptop may edit and go on"
peers = ["user:me@example.com"]
operations = ["task", "follow_up"]
profiles = ["query", "edit"]
runners = ["claude"]
paths = ["{builder.base}"]
take_changes = true
"""
        await builder.configure(runner(key_file, model.url) + rule)
        await asyncio.gather(laptop.up(), builder.up())
        await laptop.delegate(
            builder.name, "claude", builder.directory("app"), profile=Profile.QUERY, wait_s=0
        )
        await builder.trust(laptop)
        if "tier3" not in (await builder.status()).enforcement:
            pytest.skip("no sandbox of tier 3 here")
        yield laptop, builder


@pytest.fixture
def scene(pair: tuple[Machine, Machine], request: pytest.FixtureRequest) -> Scene:
    laptop, builder = pair
    place = builder.directory(request.node.name[:40])
    (place / "code").write_text("one\n")
    (place / "gone").write_text("gone\n")
    commit(place)
    return Scene(laptop, builder, place, clone(laptop, place))


async def test_the_last_turns_patch_has_the_changes_of_all_and_fits_the_first_ones_commit(
    scene: Scene,
) -> None:
    head = git(scene.place, "rev-parse", "HEAD")
    one = await scene.turn("echo two >>code; rm gone; printf 'a\\0b' >new; ln -s code link")
    assert one.patch is not None
    assert one.patch.changed == ["M code", "D gone", "A link", "A new"]
    # The source goes on meanwhile: the conversation stays on what it began with.
    (scene.place / "code").write_text("another\n")
    git(scene.place, "commit", "--quiet", "--all", "--message=later")
    two = await scene.turn(
        "cat code; ls; git status --short; echo three >>code; rm link", one.task_id
    )
    assert two.state is TaskState.SUCCEEDED, two
    assert "done: one\ntwo\ncode\nlink\nnew\n" in two.summary
    assert two.patch is not None
    assert two.patch.base_commit == one.patch.base_commit == head
    assert two.patch.changed == ["M code", "D gone", "A new"]
    three = await scene.turn("cat code", two.task_id)
    assert three.patch is not None
    assert three.patch.sha256 == two.patch.sha256
    applied = scene.laptop.cli("apply", three.task_id, "-C", str(scene.home), "--yes")
    assert applied.returncode == 0, applied.stderr
    assert (scene.home / "code").read_text() == "one\ntwo\nthree\n"
    assert raw(scene.home, "status", "--porcelain") == b" M code\n D gone\n?? new\n"


async def test_changes_that_were_sent_are_below_every_turn(scene: Scene) -> None:
    (scene.home / "code").write_text("one\nmine\n")
    words = (scene.builder.name, ordered("echo two >>code"), "-C", str(scene.place))
    more = ("--profile", "edit", "--runner", "claude", "--with-changes", "--json")
    done = scene.laptop.cli("delegate", *words, *more, cwd=scene.home)
    assert done.returncode == 0, done.stderr
    two = await scene.turn("cat code; echo three >>code", json.loads(done.stdout)["task_id"])
    assert "one\nmine\ntwo" in two.summary
    applied = scene.laptop.cli("apply", two.task_id, "-C", str(scene.home), "--yes")
    assert applied.returncode == 0, applied.stderr
    assert (scene.home / "code").read_text() == "one\nmine\ntwo\nthree\n"


async def test_a_withheld_patch_is_gone_on_with_once_it_is_released(scene: Scene) -> None:
    # In two pieces: a prompt with a secret in it would not leave the laptop.
    one = await scene.turn(f"printf %s%s {TOKEN[:4]} {TOKEN[4:]} >config")
    assert one.patch is not None
    assert one.patch.withheld == "secret_found"
    two = await scene.turn("rm config", one.task_id)
    assert (two.state, two.code) == (TaskState.DENIED, "secret_found")
    assert "is withheld, and the next turn would go on with it" in two.reason
    released = scene.builder.cli("release", one.task_id, "--yes")
    assert released.returncode == 0, released.stderr
    two = await scene.turn("rm config; echo two >>code", one.task_id)
    assert two.patch is not None
    assert (two.patch.changed, two.patch.withheld) == (["M code"], "")


async def test_a_directory_without_git_that_has_changed_meanwhile_is_said(scene: Scene) -> None:
    place = scene.builder.directory("plain-turns")
    (place / "code").write_text("one\n")
    give(place)
    plain = Scene(scene.laptop, scene.builder, place, scene.home)
    one = await plain.turn("echo two >>code")
    two = await plain.turn("cat code", one.task_id)
    assert "one\ntwo" in two.summary
    (place / "code").write_text("other\n")
    three = await plain.turn("cat code", two.task_id)
    assert three.state is TaskState.FAILED
    assert "the directory is not what the turn before began with" in three.reason
