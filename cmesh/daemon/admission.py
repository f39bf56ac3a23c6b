"""May this task run here, as it is asked, by whom it is asked, now?

Policy says what a peer may do; this adds what this machine can do. Everything
that stands against a task is found before its row is written.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

from cmesh.daemon.parts import Parts
from cmesh.daemon.rules import real_path
from cmesh.errors import CmeshError, QueueFull, RootRefused, SandboxUnavailable, TaskRefused
from cmesh.model import Direction, Identity, Limits, Operation, Profile, TaskSpec
from cmesh.policy.decide import Decision, InboundRequest, decide_inbound
from cmesh.policy.explain import for_remote
from cmesh.runner.registry import Runner, Runners
from cmesh.store.records import DecisionRecord

__all__ = ["RUNNABLE", "Admission", "Count", "Grant", "admit", "principal", "task_request"]

DAY = timedelta(days=1)

RUNNABLE = (Profile.FULL,)
"""Profiles that can run here; the others need a sandbox that this build lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an admitted task runs with: already narrowed by the rule."""

    runner: Runner
    directory: str
    limits: Limits
    on_revoke: Literal["end", "stay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The answer.

    Attributes:
        grant: None unless allowed or asked.
        code, reason, change: why not, as much as the caller may know.
        record: the decision for the audit; holds all of it.
    """

    effect: Literal["allow", "ask", "deny"]
    record: DecisionRecord
    grant: Grant | None = None
    rule: str | None = None
    code: str = ""
    reason: str = ""
    change: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Inbound tasks that count against limits.

    Attributes:
        of_peer: the asking peer's tasks that run or wait, without this one.
        unfinished: everybody's tasks that run or wait, without this one.
        counted: this one is in the store already, and so among today's.
    """

    of_peer: int
    unfinished: int
    counted: bool = False


async def admit(parts: Parts, identity: Identity, spec: TaskSpec, count: Count) -> Admission:
    """Decide on a task. Blocks on the disk in a thread; never raises a denial."""
    config = parts.rules.config()
    directory, runner, missing = await asyncio.to_thread(_find, parts.runners(), spec)
    today = await parts.store.counts(identity.node_id, parts.clock.now() - DAY)
    asked = task_request(parts, identity, spec, directory)
    request = replace(
        asked,
        running=count.of_peer,
        today=max(0, today - count.counted),
        reports_cost=runner is not None and runner.reports_cost,
    )
    decision = decide_inbound(request, config.policy)
    record = _record(identity, spec, decision, config.policy.sha256)
    if decision.effect == "deny" or decision.limits is None:
        told = for_remote(decision)
        return Admission(
            effect="deny",
            record=record,
            code=decision.code or "policy_denied",
            reason=told.reason,
            change=told.change,
        )
    obstacle = missing or _obstacle(parts, spec, directory, count)
    if obstacle is not None or runner is None:
        return _refused(record, obstacle)
    grant = Grant(
        runner=runner,
        directory=directory,
        limits=decision.limits,
        on_revoke=decision.on_revoke,
    )
    return Admission(effect=decision.effect, record=record, grant=grant, rule=decision.rule)


def task_request(
    parts: Parts, identity: Identity, spec: TaskSpec, directory: str
) -> InboundRequest:
    """Return what policy is asked about a task in its real directory, on its own.

    It counts no other task and takes for granted that the runner reports cost.
    """
    return InboundRequest(
        identity=identity,
        operation=Operation.TASK,
        profile=spec.profile,
        runner=spec.runner,
        directory=directory,
        accept=spec.accept,
        runtime_s=spec.limits.runtime_s,
        output_bytes=spec.limits.output_bytes,
        cost_usd=spec.limits.cost_usd,
        running=0,
        today=0,
        reports_cost=True,
        chain=spec.origin,
        self_id=parts.self_id(),
    )


def principal(identity: Identity) -> str:
    """Return who stands behind a node, for the audit: its tags, else its user."""
    return ",".join(identity.tags) or identity.user


def _find(runners: Runners, spec: TaskSpec) -> tuple[str, Runner | None, CmeshError | None]:
    """Return the real directory, and the runner or why there is none; in one thread's turn."""
    directory = real_path(spec.directory)
    try:
        return directory, runners.resolve(spec.runner), None
    except CmeshError as error:
        return directory, None, error


def _obstacle(parts: Parts, spec: TaskSpec, directory: str, count: Count) -> CmeshError | None:
    """Say what this machine lacks, after policy has allowed the task."""
    worker = parts.rules.config().worker
    if spec.profile not in RUNNABLE:
        return SandboxUnavailable(f"profile `{spec.profile}` needs a sandbox this build lacks")
    if parts.is_root and not worker.allow_root:
        return RootRefused(
            "the worker's daemon runs as root and is not told to run tasks so",
            hint="run it as an ordinary user, or set `allow_root = true` under `[worker]`",
        )
    if not _is_directory(directory):
        return TaskRefused(f"`{spec.directory}` is no directory on the worker", hint="")
    if spec.accept:
        return TaskRefused("acceptance commands need a sandbox this build lacks", hint="")
    if count.unfinished >= worker.queue:
        return QueueFull(f"{count.unfinished} tasks run or wait on the worker already")
    return None


def _is_directory(path: str) -> bool:
    """Say whether a task can start there; a place that may not be looked at is none."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _refused(record: DecisionRecord, error: CmeshError | None) -> Admission:
    error = error or CmeshError("the runner is missing")
    return Admission(
        effect="deny",
        record=replace(record, effect="deny", reason=error.message),
        code=error.code,
        reason=error.message,
        change=error.hint,
    )


def _record(
    identity: Identity, spec: TaskSpec, decision: Decision, policy_sha256: str
) -> DecisionRecord:
    failed: tuple[Mapping[str, str], ...] = tuple(asdict(item) for item in decision.failed)
    return DecisionRecord(
        task_id=spec.task_id,
        direction=Direction.IN,
        peer_id=identity.node_id,
        peer=identity.name,
        principal=principal(identity),
        operation=Operation.TASK.value,
        effect=decision.effect,
        rule=decision.rule,
        reason=decision.reason,
        failed=failed,
        policy_sha256=policy_sha256,
    )
