"""The real Claude Code through the supervisor, against a scripted model on loopback."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.config import RunnerConfig
from cmesh.model import Limits, TaskState
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from tests.fakes.model_server import ModelServer, fake_json
from tests.system.daemon.agents import CLAUDE
from tests.system.runner.agents import finish, spec_for, start
from tests.system.runner.support import Worker

KEY = "sk-ant-test-0000"


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.skipif(
        CLAUDE is None,
        reason="no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm",
    ),
]


@pytest.fixture
def runner(tmp_path: Path, model: ModelServer) -> Runner:
    key_file = tmp_path / "claude.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    config = RunnerConfig(
        program=str(CLAUDE),
        key_file=key_file,
        base_url=model.url,
        # Root needs IS_SANDBOX for this profile; few retries keep failures short.
        env={"IS_SANDBOX": "1", "CLAUDE_CODE_MAX_RETRIES": "1"},
    )
    return Runners({"claude": config}, {}, programs=Programs(os.defpath)).resolve("claude")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "deploy.log").write_text("ERROR: port 8080 is taken\n")
    return project


async def test_claude_reads_a_file_with_its_shell_and_answers(
    worker: Worker, runner: Runner, project: Path, model: ModelServer
) -> None:
    call = {"tool": "$shell", "input": {"command": "cat deploy.log", "description": "read"}}
    prompt = "why did it fail? " + fake_json(call, {"text": "because: {{last_tool_result}}"})
    spec = spec_for(runner, prompt, project)
    await start(worker, runner, spec)
    events, outcome = await finish(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert outcome.text == "because: ERROR: port 8080 is taken"
    kinds = ["raw", "tool_call", "cost", "tool_result", "text", "cost", "cost"]
    assert [e.kind for e in events] == kinds
    assert (events[3].data["command"], events[3].data["exit_code"]) == ("cat deploy.log", 0)
    assert outcome.session == spec.task_id
    assert outcome.usage.cost_usd is not None
    assert outcome.usage.cost_usd > 0
    assert runner.version.startswith("2.")
    assert len(model.requests) >= 2


async def test_everything_claude_writes_stays_in_the_task_s_directory(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"text": "done"}), project)
    await start(worker, runner, spec)
    _events, outcome = await finish(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert [entry.name for entry in project.iterdir()] == ["deploy.log"]
    home = worker.supervisor.directory(spec.task_id) / "home"
    assert (home / ".claude").is_dir()


async def test_the_key_is_never_in_an_argv(worker: Worker, runner: Runner, project: Path) -> None:
    spec = spec_for(runner, fake_json({"hang": True}), project)
    await start(worker, runner, spec)
    look = await worker.until(spec.task_id, lambda look: look.agent_pid is not None)
    assert KEY.encode() not in Path(f"/proc/{look.agent_pid}/cmdline").read_bytes()
    worker.supervisor.end(spec.task_id, "cancelled")
    await worker.result(spec.task_id)


async def test_a_failing_model_is_a_failed_task_with_retries_shown(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"error": 529, "kind": "overloaded_error"}), project)
    await start(worker, runner, spec)
    events, outcome = await finish(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "529" in outcome.error
    assert "retry" in [event.kind for event in events]


async def test_a_cancel_ends_claude_and_the_shell_of_its_tool(
    worker: Worker, runner: Runner, project: Path
) -> None:
    nap = "python3 -c 'import time; time.sleep(600)'"
    call = {"tool": "$shell", "input": {"command": nap, "description": "wait"}}
    spec = spec_for(runner, fake_json(call, {"text": "never"}), project)
    await start(worker, runner, spec)
    await worker.printed(spec.task_id, b'"tool_use"')
    await worker.eventually(lambda: worker.supervisor.count_processes(spec.task_id) > 1)
    worker.supervisor.end(spec.task_id, "cancelled")
    exit_ = await worker.result(spec.task_id)
    assert (exit_.verdict, exit_.processes_left) == ("cancelled", 0)
    assert worker.supervisor.count_processes(spec.task_id) == 0


async def test_a_spent_budget_is_a_failure_that_names_it(
    worker: Worker, runner: Runner, project: Path
) -> None:
    call = {"tool": "$shell", "input": {"command": "true"}, "usage": {"output_tokens": 500_000}}
    spec = spec_for(runner, fake_json(call, call, {"text": "never"}), project)
    spec = replace(spec, limits=Limits(runtime_s=50, cost_usd=0.01))
    await start(worker, runner, spec)
    _events, outcome = await finish(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "budget" in outcome.error
