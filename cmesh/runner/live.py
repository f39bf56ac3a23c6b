"""A live run: one word asked of a runner's own model, with its own key, started as a task is.

Manifest, shim, sandbox, relay and proxy are those of tasks; only the row of a task is missing, and
who asked for it. It costs what the model costs.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from cmesh.clock import Clock
from cmesh.config import SandboxConfig
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.policy.profiles import BUILT_IN
from cmesh.runner.apart import Apart, run_apart, throw_away
from cmesh.runner.confine import Relay, Sandboxes
from cmesh.runner.egress.gateway import LoginReader
from cmesh.runner.egress.network import Network, variables
from cmesh.runner.egress.outside import INTERNET, Outside
from cmesh.runner.egress.proxy import Proxy
from cmesh.runner.launch import Launch
from cmesh.runner.reader import Outcome
from cmesh.runner.runner import Runner

__all__ = ["PROMPT", "RUN_LIMIT_S", "LiveBench", "LiveRun", "is_answer", "live_run"]

WORD = "ready"
PROMPT = f"Reply with this one word and do nothing else: {WORD}"

RUN_LIMIT_S = 60
"""From the agent's start to its forced end; a call of the control socket waits 90 s."""

END_LIMIT_S = 15.0
"""Beyond that: for the shim to start it, and to end it."""

BUDGET_USD = 0.5
"""What a runner that keeps to a budget may spend; one answer costs far less."""

OUTPUT_BYTES = 1024 * 1024
STDERR_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBench:
    """Where live runs are made.

    Attributes:
        place: a private directory for this runner's; no task's.
        config: what the owner accepts of a sandbox.
        audit: makes one row of a connection durable: its kind, and its data.
        outside: what a run in a sandbox reaches.
        read_login: reads the login of an account; None = none is logged in here.
    """

    place: Path
    sandboxes: Sandboxes
    config: SandboxConfig
    clock: Clock
    audit: Callable[[str, Mapping[str, object]], Awaitable[None]]
    outside: Outside = INTERNET
    read_login: LoginReader | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """What came back.

    Attributes:
        seconds: from the hand-over to the shim until its result was seen.
        enforcement: what held it; empty = nothing.
    """

    outcome: Outcome
    seconds: float
    enforcement: str


async def live_run(bench: LiveBench, runner: Runner, profile: Profile) -> LiveRun:
    """Run one; `profile` is `query` or `full`. Never two at once in the same place.

    A cancelled call ends the agent.

    Raises:
        RunnerUnavailable: the key cannot be read, or the model not be reached from a sandbox.
        SandboxUnavailable: nothing here can hold it, or its manifest lacks the profile.
        RunnerError: no shim can be started.
        OSError: the disk refuses, or there is no result in time.
    """
    throw = throw_away(bench.place)
    directory = await asyncio.to_thread(throw.__enter__)
    try:
        await bench.sandboxes.require(profile, str(directory), bench.config)
        async with run_apart(bench.place) as apart:
            return await _run(bench, apart, runner, _spec(bench, runner, profile, directory))
    finally:
        await asyncio.to_thread(throw.__exit__, None, None, None)


async def _run(bench: LiveBench, apart: Apart, runner: Runner, spec: TaskSpec) -> LiveRun:
    supervisor, task_id = apart.supervisor, spec.task_id
    task = supervisor.directory(task_id)

    async def audit(_task_id: TaskId, kind: str, data: Mapping[str, object]) -> None:
        await bench.audit(kind, data)

    proxy = Proxy(audit, bench.clock, outside=bench.outside, read_login=bench.read_login)
    try:
        network, relay = None, None
        if spec.profile is not Profile.FULL and not (network := runner.network()).empty:
            bench.sandboxes.require_network()
            relay = Relay(port=network.port, socket=task / "net" / "daemon")
        launch = await asyncio.to_thread(_launch, bench, runner, spec, task, network, relay)
        supervisor.prepare(task_id, launch)
        if network is not None and relay is not None:
            proxy.open(task_id, network, relay.socket)
        begun = bench.clock.monotonic()
        await supervisor.spawn(task_id)
        exit_ = await apart.end(task_id, RUN_LIMIT_S + END_LIMIT_S)
        seconds = bench.clock.monotonic() - begun
        reader = runner.reader()
        reader.feed(supervisor.read_spool(task_id, 0, OUTPUT_BYTES))
        errors = supervisor.read_spool(task_id, 0, STDERR_BYTES, stream="stderr")
        held = supervisor.look(task_id).enforcement
        return LiveRun(outcome=reader.finish(exit_, errors), seconds=seconds, enforcement=held)
    finally:
        await proxy.close()


def _spec(bench: LiveBench, runner: Runner, profile: Profile, directory: Path) -> TaskSpec:
    return TaskSpec(
        task_id=TaskId(str(uuid.uuid4())),
        runner=runner.name,
        profile=profile,
        directory=str(directory),
        prompt=PROMPT,
        limits=Limits(
            runtime_s=RUN_LIMIT_S,
            output_bytes=OUTPUT_BYTES,
            cost_usd=BUDGET_USD if runner.reports_cost else None,
        ),
        not_after=bench.clock.now() + timedelta(seconds=RUN_LIMIT_S),
    )


def is_answer(text: str) -> bool:
    """Say whether an agent's final text ends with the word it was asked for, alone on a line.

    One that only repeats what it was given, or prints an error and ends with 0, has not answered.
    """
    lines = text.strip().splitlines()
    return bool(lines) and lines[-1].strip(" \t.!*`'\"").lower() == WORD


def _launch(
    bench: LiveBench,
    runner: Runner,
    spec: TaskSpec,
    task: Path,
    network: Network | None,
    relay: Relay | None,
) -> Launch:
    """Return what is started, as for a task of the profile. Blocks on the disk."""
    launch = runner.launch(spec, task, task / "home")
    if spec.profile is Profile.FULL:
        return launch
    if network is not None and relay is not None:
        way = variables(network, runner.manifest.credential, base_url=runner.base_url)
        launch = replace(launch, env={**launch.env, **way})
    needs = runner.needs()
    needs = replace(needs, read=(*needs.read, *bench.config.read))
    return bench.sandboxes.confine(launch, BUILT_IN[spec.profile], needs, relay)
