"""A self-test: an agent CLI in a hostile directory, started as a task of `query` is.

Manifest, shim, sandbox, relay and proxy are those of tasks; the directory is full of traps, the
key is false, and the model is one of our own that says one word, asked without a gateway between.
Nothing leaves this machine.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cmesh.clock import Clock
from cmesh.config import SandboxConfig
from cmesh.errors import CmeshError
from cmesh.model import Limits, Profile, TaskId, TaskSpec, TaskState
from cmesh.policy.profiles import BUILT_IN
from cmesh.runner.apart import Apart
from cmesh.runner.confine import Relay, Sandboxes
from cmesh.runner.egress.addresses import Address
from cmesh.runner.egress.network import variables
from cmesh.runner.egress.outside import Outside, Streams
from cmesh.runner.egress.proxy import Proxy
from cmesh.runner.launch import Launch
from cmesh.runner.reader import Outcome
from cmesh.runner.runner import Runner
from cmesh.runner.selftest.directory import Hostile, TrapsUnfit
from cmesh.runner.selftest.model import DECOY_PATH, MODEL_PATH, Model
from cmesh.runner.selftest.reply import DONE
from cmesh.runner.standing import Verdict
from cmesh.runner.supervise import Supervisor
from cmesh.runner.traps.trapset import Traps
from cmesh.text import one_line

__all__ = ["RUN_LIMIT_S", "Bench", "Finding", "directory_prefix", "self_test"]

RUN_LIMIT_S = 40
"""From the agent's start to its forced end: opencode's first start takes 5 s on an idle machine."""

END_LIMIT_S = 15.0
"""Beyond that: for the shim to start it, and to end it."""

REASON_CHARACTERS = 300
PROMPT = f"Say {DONE}."
_HERE = IPv4Address("127.0.0.1")
_PORT = 9
"""Stands in the URL that the agent is told of; nothing is ever connected to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a self-test found; attributes as in `cmesh.runner.standing.SelfTest`."""

    verdict: Verdict
    sprung: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where self-tests are run.

    Attributes:
        place: a private directory for one runner's; no task's.
        sandboxes: what holds tasks here.
        config: what the owner accepts of a sandbox.
        run_limit_s: seconds that the agent has.
    """

    place: Path
    sandboxes: Sandboxes
    config: SandboxConfig
    clock: Clock
    run_limit_s: int = RUN_LIMIT_S


async def self_test(bench: Bench, runner: Runner, traps: Traps) -> Finding:
    """Run one, never two at once in the same place; what kept it from running is its reason.

    `traps` must name an API.
    """
    try:
        return await _tested(bench, runner, traps)
    except TrapsUnfit as error:
        return Finding(verdict="unable", reason=str(error))
    except (CmeshError, OSError) as error:
        why = error.message if isinstance(error, CmeshError) else error.strerror or str(error)
        why = why or f"its shim had no result within {bench.run_limit_s + END_LIMIT_S:g} s"
        return Finding(verdict="unable", reason=one_line(why, REASON_CHARACTERS))


def directory_prefix(place: Path) -> str:
    """Return how the names of throw-away directories begin, by the place of their self-tests."""
    return f"cmesh-selftest-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}-"


async def _tested(bench: Bench, runner: Runner, traps: Traps) -> Finding:
    directory = await asyncio.to_thread(_fresh_directory, directory_prefix(bench.place))
    try:
        await bench.sandboxes.require(Profile.QUERY, str(directory), bench.config)
        bench.sandboxes.require_network()
        async with _supervisor(bench) as apart:
            return await _watched(bench, apart, (runner, traps, directory))
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _watched(bench: Bench, apart: Apart, subject: tuple[Runner, Traps, Path]) -> Finding:
    """Start the agent, wait for its end, and say what came of it."""
    runner, traps, directory = subject
    supervisor = apart.supervisor
    assert traps.api
    canary = f"canary-{secrets.token_hex(8)}"
    spec = _spec(bench, runner, directory)
    task = supervisor.directory(spec.task_id)
    model = Model(traps.api, canary)
    proxy = Proxy(_unrecorded, bench.clock, outside=_only(model))
    try:
        runner = await asyncio.to_thread(_disguised, runner, traps, task)
        network = runner.network()
        relay = Relay(port=network.port, socket=task / "net" / "daemon")
        hostile = Hostile(
            directory=directory,
            # In a place that the agent may write, or no trap of a sandboxed one leaves a mark.
            marks=task / "tmp" / "sprung",
            decoy=f"http://{_HERE}:{network.port}{DECOY_PATH}",
            canary=canary,
        )
        way = variables(network, runner.manifest.credential, base_url=runner.base_url)
        launch = await asyncio.to_thread(_launch, bench, runner, spec, task, relay, way)
        supervisor.prepare(spec.task_id, launch)
        await asyncio.to_thread(_plant, hostile, traps)
        proxy.open(spec.task_id, network, relay.socket)
        await supervisor.spawn(spec.task_id)
        exit_ = await apart.end(spec.task_id, bench.run_limit_s + END_LIMIT_S)
        output = supervisor.read_spool(spec.task_id, 0, spec.limits.output_bytes)
        errors = supervisor.read_spool(spec.task_id, 0, 4 * 1024, stream="stderr")
        reader = runner.reader()
        reader.feed(output)
        sprung = await asyncio.to_thread(hostile.sprung, model.sprung)
        return _finding(bench, reader.finish(exit_, errors), model.turns, sprung)
    finally:
        await proxy.close()
        await model.close()


def _finding(bench: Bench, outcome: Outcome, turns: int, sprung: tuple[str, ...]) -> Finding:
    """Say what came of a run.

    INVARIANT: only who has gone through a whole turn with our own model has passed; who ends
    early may not have come to the traps.
    """
    if sprung:
        return Finding(verdict="failed", sprung=sprung)
    if outcome.state is TaskState.TIMED_OUT:
        why = f"it did not end within {bench.run_limit_s} s"
    elif outcome.state is not TaskState.SUCCEEDED:
        why = outcome.error or f"it ended as {outcome.state}"
    elif not turns:
        why = "it did not ask its model"
    elif DONE not in outcome.text:
        why = "it did not say what its model said"
    else:
        return Finding(verdict="passed")
    return Finding(verdict="unable", reason=one_line(why, REASON_CHARACTERS))


@contextlib.asynccontextmanager
async def _supervisor(bench: Bench) -> AsyncGenerator[Apart]:
    """Keep a supervisor of its own, and nothing of an earlier self-test or this one."""
    changed = asyncio.Event()
    supervisor = Supervisor(bench.place, on_change=lambda _task_id: changed.set())
    try:
        await supervisor.start()
        _end_all(supervisor)
        yield Apart(supervisor=supervisor, changed=changed)
    finally:
        _end_all(supervisor)
        await supervisor.close()


def _end_all(supervisor: Supervisor) -> None:
    for entry in list(supervisor.tasks_dir.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            task_id = TaskId(entry.name)
            if supervisor.look(task_id).exit is None:
                supervisor.end(task_id, "cancelled")
                supervisor.end_survivors(task_id)
            supervisor.discard(task_id)


def _spec(bench: Bench, runner: Runner, directory: Path) -> TaskSpec:
    return TaskSpec(
        task_id=TaskId(str(uuid.uuid4())),
        runner=runner.name,
        profile=Profile.QUERY,
        directory=str(directory),
        prompt=PROMPT,
        limits=Limits(runtime_s=bench.run_limit_s, output_bytes=1024 * 1024),
        not_after=bench.clock.now() + timedelta(seconds=bench.run_limit_s),
    )


def _disguised(runner: Runner, traps: Traps, task: Path) -> Runner:
    """Return the runner with a false key and our own model; all else is as for a task."""
    task.mkdir(mode=0o700, exist_ok=True)
    key = task / "key"
    key.touch(mode=0o600)
    key.write_text(f"sk-selftest-{secrets.token_hex(16)}", "ascii")
    url = f"http://{_HERE}:{_PORT}{MODEL_PATH}{traps.base_path}"
    credential, env = runner.manifest.credential, dict(runner.env)
    if credential is not None and credential.base_url_variable:
        env[credential.base_url_variable] = url
    # INVARIANT: no gateway. It would refuse what a trap makes the program ask, and strip a key
    # that a trap gave to it, so that the model here never saw either.
    return replace(runner, key_file=key, base_url=url, env=env, behind_gateway=False)


def _launch(
    bench: Bench,
    runner: Runner,
    spec: TaskSpec,
    task: Path,
    relay: Relay,
    way: Mapping[str, str],
) -> Launch:
    launch = runner.launch(spec, task, task / "home")
    launch = replace(launch, env={**launch.env, **way})
    needs = runner.needs()
    needs = replace(needs, read=(*needs.read, *bench.config.read))
    return bench.sandboxes.confine(launch, BUILT_IN[Profile.QUERY], needs, relay)


def _plant(hostile: Hostile, traps: Traps) -> None:
    hostile.marks.mkdir(mode=0o700)
    hostile.plant(traps)
    hostile.require_works()


def _fresh_directory(prefix: str) -> Path:
    """Make a directory outside of cmesh's own, which no sandbox shows; delete what was left."""
    place = Path(os.path.realpath(tempfile.gettempdir()))
    for left in place.glob(f"{prefix}*"):
        if left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place))


def _only(model: Model) -> Outside:
    """Return a world with nothing in it but the model: no name has an address."""

    async def resolve(_name: str) -> list[Address]:
        raise OSError("nothing outside can be reached from a self-test")

    async def connect(_address: Address, _port: int) -> Streams:
        return await model.connect()

    async def secure(_address: Address, _port: int, _name: str) -> Streams:
        raise OSError("nothing outside can be reached from a self-test")

    return Outside(
        resolve=resolve, refusal=lambda _address: "outside", connect=connect, secure=secure
    )


async def _unrecorded(_task_id: TaskId, _kind: str, _data: Mapping[str, object]) -> None:
    """Record nothing: no task has connected anywhere."""
