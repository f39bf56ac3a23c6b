"""The real opencode through the supervisor, against a scripted model on loopback."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.config import RunnerConfig
from cmesh.model import TaskState
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from tests.fakes.model_server import ModelServer, fake_json
from tests.system.daemon.agents import OPENCODE
from tests.system.runner.agents import finish, run, spec_for, start
from tests.system.runner.support import Worker

KEY = "sk-test-opencode-0000"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.skipif(
        OPENCODE is None,
        reason="no `opencode`: set CMESH_TEST_OPENCODE, or install it under .cache/npm",
    ),
]


@pytest.fixture
def env() -> dict[str, str]:
    """Return what the owner adds to opencode's environment."""
    return {}


@pytest.fixture
def runner(tmp_path: Path, model: ModelServer, env: dict[str, str]) -> Runner:
    key_file = tmp_path / "opencode.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    # Without that variable it asks npm's registry for a package of its own.
    config = RunnerConfig(
        program=str(OPENCODE),
        key_file=key_file,
        base_url=f"{model.url}/v1",
        model="fake-1",
        env=env,
    )
    return Runners({"opencode": config}, {}, programs=Programs(os.defpath)).resolve("opencode")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "deploy.log").write_text("ERROR: port 8080 is taken\n")
    return project


def shell(command: str) -> dict[str, object]:
    return {"tool": "bash", "input": {"command": command, "description": "look"}}


async def test_opencode_reads_a_file_with_its_shell_and_answers_and_writes_nowhere_else(
    worker: Worker, runner: Runner, project: Path, model: ModelServer
) -> None:
    script = fake_json(shell("cat deploy.log; exit 3"), {"text": "because: {{last_tool_result}}"})
    spec = spec_for(runner, f"why did it fail? {script}", project)
    events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert outcome.text.startswith("because: ")
    assert "ERROR: port 8080 is taken" in outcome.text
    kinds = ["raw", "tool_call", "tool_result", "cost", "text", "cost"]
    assert [e.kind for e in events] == kinds
    assert "ERROR: port 8080 is taken" in events[2].text
    assert (events[2].data["exit_code"], events[2].data["is_error"]) == (3, True)
    assert outcome.session.startswith("ses_")
    assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (200, 40)
    assert outcome.usage.cost_usd is None  # of a model without a price
    assert runner.version == "1.18.33"
    assert set(model.keys) == {KEY}
    assert {body["model"] for body in model.requests} == {"fake-1"}
    assert len(model.requests) == 2
    assert [entry.name for entry in project.iterdir()] == ["deploy.log"]


async def test_the_key_is_in_the_environment_alone(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"hang": True}), project)
    launch = await start(worker, runner, spec)
    assert [name for name, text in launch.env.items() if KEY in text] == ["ANTHROPIC_API_KEY"]
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


@pytest.mark.parametrize("env", [{"OPENCODE_PERMISSION": '{"bash":"ask"}'}])
async def test_a_call_that_nobody_could_allow_is_a_failed_task(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json(shell("touch it"), {"text": "never"}), project)
    _events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "`tool-calls`" in outcome.error
    assert [denial.partition(" ")[0] for denial in outcome.denials] == ["bash"]
    assert not (project / "it").exists()


async def test_a_model_that_never_answers_ends_a_run_by_its_silence(
    worker: Worker, runner: Runner, project: Path
) -> None:
    # Asked again without end, and without a word of it.
    turns = (shell("cat deploy.log"), {"error": 500, "message": "down"})
    spec = spec_for(runner, fake_json(*turns), project)
    silent = replace(runner, idle_s=20)
    events, outcome = await run(worker, silent, spec)
    assert (outcome.state, outcome.code) == (TaskState.FAILED, "idle_limit")
    assert outcome.error.startswith("it printed nothing for 20 s")
    assert "ERROR: port 8080 is taken" in [
        e.text.strip() for e in events if e.kind == "tool_result"
    ]
    assert outcome.usage.tokens_in == 100


async def test_a_cancel_ends_opencode_and_the_shell_of_its_tool(
    worker: Worker, runner: Runner, project: Path
) -> None:
    nap = shell("touch began; exec python3 -c 'import time; time.sleep(600)'")
    spec = spec_for(runner, fake_json(nap, {"text": "never"}), project)
    await start(worker, runner, spec)
    await worker.eventually((project / "began").exists)
    worker.supervisor.end(spec.task_id, "cancelled")
    _events, outcome = await finish(worker, runner, spec)
    assert outcome.state is TaskState.CANCELLED
    assert worker.supervisor.count_processes(spec.task_id) == 0
