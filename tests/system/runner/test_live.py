"""Live runs: the real agent asks a model with its key, as a task does, and nothing of it is left."""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.config import RunnerConfig, SandboxConfig
from cmesh.errors import SandboxUnavailable
from cmesh.model import Profile, TaskState
from cmesh.runner.confine import Sandboxes
from cmesh.runner.live import PROMPT, LiveBench, LiveRun, live_run
from cmesh.runner.own_manifests import load_all, write_own
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from cmesh.runner.template import manifest_text
from cmesh.sandbox.probe import find_enforcement
from cmesh.sandbox.tier import Enforcement
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE

pytestmark = [pytest.mark.anyio, pytest.mark.system]

KEY = "sk-ant-of-the-owner"
LIMIT_S = 30.0

Rows = list[tuple[str, Mapping[str, object]]]


@pytest.fixture(scope="module")
def found() -> Enforcement:
    return find_enforcement()


def bench_in(tmp_path: Path, found: Enforcement, rows: Rows) -> LiveBench:
    async def audit(kind: str, data: Mapping[str, object]) -> None:
        rows.append((kind, data))

    return LiveBench(
        place=tmp_path / "state" / "livetest",
        sandboxes=Sandboxes((tmp_path / "state",), lambda: found),
        config=SandboxConfig(),
        clock=SystemClock(),
        audit=audit,
    )


def own(tmp_path: Path, text: str) -> Runner:
    """Return a runner whose program is a script, by a manifest of the owner."""
    program = tmp_path / "agent"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    written = manifest_text("mine", str(program)).replace('version_argv = ["--version"]', "")
    write_own(tmp_path / "config", "mine", written, force=True)
    manifests = load_all(tmp_path / "config")
    return Runners({}, {}, programs=Programs(os.defpath), manifests=manifests).resolve("mine")


def left(tmp_path: Path) -> list[Path]:
    """Return what is left of live runs here: directories, and the shims' complaints."""
    place = tmp_path / "state" / "livetest"
    complaints = [place / "shim.log"] if (place / "shim.log").read_text() else []
    tasks = [entry for entry in place.iterdir() if entry.is_dir()]
    return [*complaints, *tasks, *Path(tempfile.gettempdir()).glob("cmesh-apart-*")]


async def test_a_real_agent_answers_with_its_own_key_through_the_proxy(
    tmp_path: Path, found: Enforcement
) -> None:
    if CLAUDE is None:
        pytest.skip("no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm")
    if not found.netns:
        pytest.skip(f"no sandbox here: {found.why}")
    key_file = tmp_path / "agent.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    rows: Rows = []
    with ModelServer(scripts={"default": [{"text": "ready"}]}) as model:
        config = RunnerConfig(
            program=str(CLAUDE),
            key_file=key_file,
            base_url=model.url,
            env={"IS_SANDBOX": "1", "CLAUDE_CODE_MAX_RETRIES": "1"},
        )
        runner = Runners({"claude": config}, {}, programs=Programs(os.defpath)).resolve("claude")
        run = await live_run(bench_in(tmp_path, found, rows), runner, Profile.QUERY)
        assert run.outcome.state is TaskState.SUCCEEDED, run.outcome
        assert run.outcome.text == "ready"
        assert set(model.keys) == {KEY}
        assert PROMPT in str(model.requests[-1])
    assert run.outcome.usage.tokens_out
    assert run.outcome.usage.cost_usd is not None
    assert "netns" in run.enforcement
    assert run.seconds > 0
    assert {kind for kind, _data in rows} == {"connection", "connection_ended"}
    assert left(tmp_path) == []


async def test_without_a_sandbox_it_is_held_by_nothing_and_says_so(tmp_path: Path) -> None:
    runner = own(tmp_path, f'cat; echo; pwd; echo "$HOME"; touch {tmp_path}/was-here')
    nothing = Enforcement(why="a test says so")
    bench = bench_in(tmp_path, nothing, [])
    with pytest.raises(SandboxUnavailable):
        await live_run(bench, runner, Profile.QUERY)
    assert not (tmp_path / "was-here").exists()
    run = await live_run(bench, runner, Profile.FULL)
    assert run.outcome.state is TaskState.SUCCEEDED
    assert run.outcome.text.startswith(PROMPT)
    assert "cmesh-apart-" in run.outcome.text
    assert f"{tmp_path}/state/livetest/" in run.outcome.text  # its home, not the owner's
    assert (tmp_path / "was-here").exists()
    assert left(tmp_path) == []


async def test_a_failure_is_told_in_the_agents_words(tmp_path: Path, found: Enforcement) -> None:
    runner = own(tmp_path, "echo the key is not good >&2; exit 3")
    run: LiveRun = await live_run(bench_in(tmp_path, found, []), runner, Profile.FULL)
    assert run.outcome.state is TaskState.FAILED
    assert "the key is not good" in run.outcome.error


async def test_who_gives_up_waiting_ends_the_agent(tmp_path: Path, found: Enforcement) -> None:
    os.mkfifo(tmp_path / "pipe")
    runner = own(tmp_path, f"exec cat {tmp_path}/pipe")
    task = asyncio.create_task(live_run(bench_in(tmp_path, found, []), runner, Profile.FULL))
    async with asyncio.timeout(LIMIT_S):
        writer = await asyncio.to_thread(_opened, tmp_path / "pipe")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Only who has nobody left that reads is told so.
        await asyncio.to_thread(_broken, writer)
    assert left(tmp_path) == []


def _opened(pipe: Path) -> int:
    """Open the pipe to write, which waits for a reader."""
    return os.open(pipe, os.O_WRONLY)


def _broken(writer: int) -> None:
    """Write until nobody reads any more."""
    try:
        while True:
            os.write(writer, b"x")
    except BrokenPipeError:
        os.close(writer)
