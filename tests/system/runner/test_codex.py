"""The real Codex through the supervisor, against a scripted model on loopback."""

import os
from pathlib import Path

import pytest

from cmesh.config import RunnerConfig
from cmesh.model import TaskState
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from tests.fakes.model_server import ModelServer, fake_json
from tests.system.daemon.agents import CODEX
from tests.system.runner.agents import finish, run, spec_for, start
from tests.system.runner.support import Worker

KEY = "sk-test-codex-0000"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.skipif(
        CODEX is None,
        reason="no `codex`: set CMESH_TEST_CODEX, or install it under .cache/npm",
    ),
]


@pytest.fixture
def runner(tmp_path: Path, model: ModelServer) -> Runner:
    key_file = tmp_path / "codex.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    config = RunnerConfig(program=str(CODEX), key_file=key_file, base_url=f"{model.url}/v1")
    return Runners({"codex": config}, {}, programs=Programs(os.defpath)).resolve("codex")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "deploy.log").write_text("ERROR: port 8080 is taken\n")
    return project


def shell(command: str) -> dict[str, object]:
    return {"tool": "exec_command", "input": {"cmd": command}}


async def test_codex_reads_a_file_with_its_shell_and_answers(
    worker: Worker, runner: Runner, project: Path, model: ModelServer
) -> None:
    script = fake_json(shell("cat deploy.log; exit 3"), {"text": "because: {{last_tool_result}}"})
    spec = spec_for(runner, f"why did it fail? {script}", project)
    events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert outcome.text.startswith("because: ")
    assert "ERROR: port 8080 is taken" in outcome.text
    assert [e.kind for e in events] == ["raw", "tool_call", "tool_result", "text", "cost"]
    assert events[2].text == "ERROR: port 8080 is taken\n"
    assert (events[2].data["exit_code"], events[2].data["is_error"]) == (3, True)
    assert outcome.session
    assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (200, 40)
    assert outcome.usage.cost_usd is None
    assert runner.version == "codex-cli 0.169.0"
    assert set(model.keys) == {KEY}


async def test_everything_codex_writes_stays_in_the_task_s_directory(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"text": "done"}), project)
    _events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert [entry.name for entry in project.iterdir()] == ["deploy.log"]
    home = worker.supervisor.directory(spec.task_id) / "home"
    assert list(home.glob("*.sqlite"))
    assert len(list(home.glob("sessions/*/*/*/rollout-*.jsonl"))) == 1


async def test_the_key_is_never_in_an_argv(worker: Worker, runner: Runner, project: Path) -> None:
    spec = spec_for(runner, fake_json({"hang": True}), project)
    launch = await start(worker, runner, spec)
    assert launch.env["CODEX_API_KEY"] == KEY
    look = await worker.until(spec.task_id, lambda look: look.agent_pid is not None)
    assert KEY.encode() not in Path(f"/proc/{look.agent_pid}/cmdline").read_bytes()
    worker.supervisor.end(spec.task_id, "cancelled")
    await worker.result(spec.task_id)


async def test_a_model_that_refuses_is_a_failed_task_that_says_why(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"error": 400, "message": "no such model"}), project)
    events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "no such model" in outcome.error
    assert "warning" in [event.kind for event in events]


async def test_a_model_that_is_down_is_asked_again_and_then_a_failed_task(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"error": 503, "message": "down for now"}), project)
    events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "503" in outcome.error
    assert "retry" in [event.kind for event in events]


async def test_a_cancel_ends_codex_and_the_shell_of_its_tool(
    worker: Worker, runner: Runner, project: Path
) -> None:
    nap = shell("exec python3 -c 'import time; time.sleep(600)'")
    spec = spec_for(runner, fake_json(nap, {"text": "never"}), project)
    await start(worker, runner, spec)
    await worker.printed(spec.task_id, b'"command_execution"')
    await worker.eventually(lambda: worker.supervisor.count_processes(spec.task_id) > 1)
    worker.supervisor.end(spec.task_id, "cancelled")
    _events, outcome = await finish(worker, runner, spec)
    assert outcome.state is TaskState.CANCELLED
    assert worker.supervisor.count_processes(spec.task_id) == 0
