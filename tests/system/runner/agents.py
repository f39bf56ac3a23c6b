"""Real agent CLIs as runners: a launch through the supervisor, and what came of it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cmesh.model import Limits, Profile, TaskSpec
from cmesh.runner.launch import Launch
from cmesh.runner.reader import Outcome, RunnerEvent
from cmesh.runner.runner import Runner
from cmesh.runner.sessions import Place
from tests.system.runner.support import Worker, new_id

__all__ = ["finish", "run", "spec_for", "start"]

RUNTIME_S = 50


def spec_for(runner: Runner, prompt: str, project: Path) -> TaskSpec:
    """Return a task in profile `full`: nothing holds the agent but its own arguments."""
    return TaskSpec(
        task_id=new_id(),
        runner=runner.name,
        profile=Profile.FULL,
        directory=str(project),
        prompt=prompt,
        limits=Limits(runtime_s=RUNTIME_S),
        not_after=datetime(2030, 1, 1, tzinfo=UTC),
    )


async def start(
    worker: Worker,
    runner: Runner,
    spec: TaskSpec,
    argv: tuple[str, ...] | None = None,
    session: Place | None = None,
) -> Launch:
    """Start a task, with other arguments than the manifest's when `argv` is given."""
    directory = worker.supervisor.directory(spec.task_id)
    launch = runner.launch(spec, directory, directory / "home", session)
    if argv is not None:
        launch = replace(launch, argv=argv)
    worker.supervisor.prepare(spec.task_id, launch)
    await worker.supervisor.spawn(spec.task_id)
    return launch


async def finish(
    worker: Worker, runner: Runner, spec: TaskSpec
) -> tuple[list[RunnerEvent], Outcome]:
    """Wait for the end; return what the agent told, read as a daemon does."""
    exit_ = await worker.result(spec.task_id)
    reader = runner.reader()
    events = reader.feed(worker.output(spec.task_id))
    stderr = worker.supervisor.read_spool(spec.task_id, 0, 4000, stream="stderr")
    outcome = reader.finish(exit_, stderr)
    return [*events, *outcome.events], outcome


async def run(
    worker: Worker, runner: Runner, spec: TaskSpec, argv: tuple[str, ...] | None = None
) -> tuple[list[RunnerEvent], Outcome]:
    """Start a task and wait for its end."""
    await start(worker, runner, spec, argv)
    return await finish(worker, runner, spec)
