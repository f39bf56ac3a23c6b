"""The real Gemini CLI through the supervisor, against a scripted model on loopback."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.config import RunnerConfig
from cmesh.model import TaskState
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from cmesh.runner.sessions import Sessions
from tests.fakes.model_server import ModelServer, fake_json
from tests.system.daemon.agents import GEMINI
from tests.system.runner.agents import finish, run, spec_for, start
from tests.system.runner.support import Worker

KEY = "sk-test-gemini-0000"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.skipif(
        GEMINI is None,
        reason="no `gemini`: set CMESH_TEST_GEMINI, or install it under .cache/npm",
    ),
]


@pytest.fixture
def runner(tmp_path: Path, model: ModelServer) -> Runner:
    key_file = tmp_path / "gemini.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    config = RunnerConfig(program=str(GEMINI), key_file=key_file, base_url=model.url)
    return Runners({"gemini": config}, {}, programs=Programs(os.defpath)).resolve("gemini")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    # In an argument a comma would part it in two.
    project = tmp_path / "app, old"
    project.mkdir()
    (project / "deploy.log").write_text("ERROR: port 8080 is taken\n")
    return project


def shell(command: str, project: Path) -> dict[str, object]:
    arguments = {"command": command, "description": "look", "dir_path": str(project)}
    return {"tool": "run_shell_command", "input": arguments}


async def test_gemini_reads_files_runs_a_command_and_answers(
    worker: Worker, runner: Runner, project: Path, model: ModelServer
) -> None:
    read = {"tool": "read_file", "input": {"file_path": str(project / "deploy.log")}}
    look = shell("cat deploy.log; exit 3", project)
    script = fake_json(read, look, {"text": "because: {{last_tool_result}}"})
    spec = spec_for(runner, f"why did it fail? {script}", project)
    events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert outcome.text.startswith("because: ")
    assert "ERROR: port 8080 is taken" in outcome.text
    calls = ["tool_call", "tool_result"]
    assert [e.kind for e in events] == ["raw", *calls, *calls, "text", "cost"]
    assert [e.data["is_error"] for e in events if e.kind == "tool_result"] == [False, False]
    assert "ERROR: port 8080 is taken" in events[4].text
    assert outcome.session == spec.task_id
    # One more than three: it asks first which model is to answer.
    assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (400, 80)
    assert outcome.usage.cost_usd is None
    assert runner.version == "0.61.0"
    assert set(model.keys) == {KEY}


async def test_everything_gemini_writes_stays_in_the_task_s_directory(
    worker: Worker, runner: Runner, project: Path
) -> None:
    write = {"tool": "write_file", "input": {"file_path": str(project / "new"), "content": "x"}}
    spec = spec_for(runner, fake_json(write, {"text": "done"}), project)
    _events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.SUCCEEDED, outcome.error
    assert {entry.name for entry in project.iterdir()} == {"deploy.log", "new"}
    home = worker.supervisor.directory(spec.task_id) / "home"
    assert [entry.name for entry in (home / "work").iterdir()] == [".env"]
    assert list(home.glob(".gemini/tmp/work/chats/session-*.jsonl"))


async def test_a_later_turn_goes_on_with_the_conversation(
    worker: Worker, runner: Runner, project: Path, model: ModelServer, tmp_path: Path
) -> None:
    first = spec_for(runner, f"the word is plum {fake_json({'text': 'noted'})}", project)
    assert runner.manifest.session is not None
    session = Sessions(tmp_path / "sessions").place(first.task_id, runner.manifest.session)
    later = spec_for(runner, f"which word? {fake_json({'text': 'plum'})}", project)
    for spec in (first, replace(later, follows=first.task_id)):
        model.reset()
        await start(worker, runner, spec, session=session)
        _events, outcome = await finish(worker, runner, spec)
        assert outcome.state is TaskState.SUCCEEDED, outcome.error
        # Those of this turn alone.
        assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (200, 40)
    assert outcome.text == "plum"
    assert "the word is plum" in json.dumps(model.requests)
    assert Sessions(tmp_path / "sessions").kept(first.task_id, runner.manifest.session)


async def test_the_key_is_never_in_an_argv(worker: Worker, runner: Runner, project: Path) -> None:
    spec = spec_for(runner, fake_json({"hang": True}), project)
    launch = await start(worker, runner, spec)
    assert launch.env["GEMINI_API_KEY"] == KEY
    look = await worker.until(spec.task_id, lambda look: look.agent_pid is not None)
    assert KEY.encode() not in Path(f"/proc/{look.agent_pid}/cmdline").read_bytes()
    worker.supervisor.end(spec.task_id, "cancelled")
    await worker.result(spec.task_id)


@pytest.mark.parametrize("status", [400, 401])
async def test_a_model_that_refuses_is_a_failed_task_that_says_why(
    worker: Worker, runner: Runner, project: Path, status: int
) -> None:
    spec = spec_for(runner, fake_json({"error": status, "message": "no such model"}), project)
    _events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "no such model" in outcome.error


async def test_a_model_that_is_down_is_a_failed_task_that_says_why(
    worker: Worker, runner: Runner, project: Path
) -> None:
    spec = spec_for(runner, fake_json({"error": 503, "message": "down for now"}), project)
    _events, outcome = await run(worker, runner, spec)
    assert outcome.state is TaskState.FAILED
    assert "down for now" in outcome.error


async def test_a_cancel_ends_gemini_and_the_shell_of_its_tool(
    worker: Worker, runner: Runner, project: Path
) -> None:
    nap = shell("exec python3 -c 'import time; time.sleep(600)'", project)
    spec = spec_for(runner, fake_json(nap, {"text": "never"}), project)
    await start(worker, runner, spec)
    await worker.printed(spec.task_id, b'"tool_use"')
    await worker.eventually(lambda: worker.supervisor.count_processes(spec.task_id) > 1)
    worker.supervisor.end(spec.task_id, "cancelled")
    _events, outcome = await finish(worker, runner, spec)
    # Ended by a signal it exits with 0: only the shim's word counts.
    assert outcome.state is TaskState.CANCELLED
    assert worker.supervisor.count_processes(spec.task_id) == 0
