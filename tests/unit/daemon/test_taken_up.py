"""A daemon without a node: what changes beside its configuration, and what its owner alone may ask."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.app import App
from cmesh.daemon.arguments import Context, LiveRunArguments, NewRunnerArguments
from cmesh.daemon.core import Daemon
from cmesh.daemon.pair_calls import PairArguments, PairRulesArguments, UnpairArguments
from cmesh.daemon.settings import Settings
from cmesh.errors import CmeshError, TaskRefused
from cmesh.runner.own_manifests import write_own
from cmesh.runner.shim_processes import MARKER
from cmesh.runner.template import manifest_text

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0
CHANGED = "SELECT data FROM audit WHERE kind = 'config_changed'"
WRITTEN = "SELECT data FROM audit WHERE kind = 'manifest_written'"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    settings = Settings(
        state_dir=tmp_path / "state",
        config_file=tmp_path / "config" / "config.toml",
        environment={},
        clock=SystemClock(),
    )
    daemon = await Daemon.open(settings)
    yield daemon
    await daemon.close()


@pytest.fixture
def task_pid() -> Iterator[int]:
    """Return a process that bears a task's mark."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env={MARKER: "a-task"}) as process:
        yield process.pid


def app_of(daemon: Daemon) -> App:
    return App(daemon, lambda: None, lambda: None, agents=lambda: False)


async def rows(daemon: Daemon, sql: str) -> list[list[object]]:
    return (await daemon.store.sql(sql, (), 10)).rows


async def test_a_change_that_a_thread_sees_first_is_taken_up_and_recorded(daemon: Daemon) -> None:
    text = manifest_text("mine", "/bin/cat")
    write_own(daemon.settings.config_file.parent, "mine", text, force=False)
    await asyncio.to_thread(daemon.rules.config)
    assert "mine" in daemon.runners.names()
    async with asyncio.timeout(LIMIT_S):
        while not (found := await rows(daemon, CHANGED)):
            continue
    data = json.loads(str(found[0][0]))
    assert (list(data["manifests"]), data["manifest_errors"]) == (["mine"], {})
    assert data["config_sha256"] == daemon.rules.config().sha256


async def test_a_new_manifest_counts_at_once_and_says_who_asked(daemon: Daemon) -> None:
    context = Context(session="s", agent="a test")
    view = await app_of(daemon).new_runner(
        context, NewRunnerArguments(name="mine", program="/bin/cat")
    )
    assert (view.program, view.copied) == ("/bin/cat", False)
    assert daemon.runners.resolve("mine").program == "/bin/cat"
    assert json.loads(str((await rows(daemon, WRITTEN))[0][0]))["agent"] == "a test"
    assert "cmesh runners login mine --key" in view.next[1]
    missing = await app_of(daemon).new_runner(
        context, NewRunnerArguments(name="mine", program="no-such-program", force=True)
    )
    assert (missing.program, missing.next[0]) == (
        "",
        f"install its program, or correct `program` in {missing.file}",
    )
    copy = await app_of(daemon).new_runner(context, NewRunnerArguments(name="codex"))
    assert copy.copied
    assert daemon.rules.manifests.own["codex"] == Path(copy.file)


@pytest.mark.parametrize(
    ("name", "program", "code"),
    [
        ("clauds", "", "bad_arguments"),
        ("command", "", "bad_arguments"),
        ("claude", "/bin/cat", "bad_arguments"),
        ("mine", "bin/cat", "bad_arguments"),
        ("command:x", "", "bad_arguments"),
    ],
)
async def test_a_manifest_that_could_not_be_used_is_not_written(
    daemon: Daemon, name: str, program: str, code: str
) -> None:
    arguments = NewRunnerArguments(name=name, program=program)
    with pytest.raises(CmeshError) as caught:
        await app_of(daemon).new_runner(Context(session="s"), arguments)
    assert caught.value.code == code
    assert not daemon.settings.config_file.parent.exists()


async def test_a_task_can_neither_write_a_manifest_nor_spend_on_a_runner(
    daemon: Daemon, task_pid: int
) -> None:
    app, context = app_of(daemon), Context(session="s", pid=task_pid)
    with pytest.raises(TaskRefused, match="cannot write"):
        await app.new_runner(context, NewRunnerArguments(name="mine"))
    with pytest.raises(TaskRefused, match="cannot test"):
        await app.test_runner(context, LiveRunArguments(name="claude"))
    with pytest.raises(TaskRefused, match="cannot pair"):
        await app.pair(context, PairArguments(peer="box"))
    with pytest.raises(TaskRefused, match="cannot write rules"):
        await app.pair_rules(context, PairRulesArguments(peer="box", ask=True, write=True))
    with pytest.raises(TaskRefused, match="cannot change rules"):
        await app.unpair(context, UnpairArguments(peer="box", write=True))
    assert not daemon.settings.config_file.parent.exists()


async def test_a_command_and_a_runner_that_is_not_here_are_not_asked(daemon: Daemon) -> None:
    app = app_of(daemon)
    for name, code in (("command:x", "bad_arguments"), ("nobody", None)):
        with pytest.raises(CmeshError) as caught:
            await app.test_runner(Context(session="s"), LiveRunArguments(name=name))
        assert code in (None, caught.value.code)
    assert await rows(daemon, "SELECT 1 FROM audit WHERE kind = 'runner_asked'") == []
