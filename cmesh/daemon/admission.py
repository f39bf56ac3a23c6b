"""May this task run here, as it is asked, by whom it is asked, now?

Policy says what a peer may do; this adds what this machine can do. Everything
that stands against a task is found before its row is written.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from cmesh.beneath import Judged
from cmesh.daemon.parts import Parts
from cmesh.daemon.roots import Found, Roots
from cmesh.errors import (
    CmeshError,
    LoginExpired,
    PathRefused,
    QueueFull,
    RootRefused,
    RunnerUnavailable,
    SandboxUnavailable,
    TaskRefused,
    UsageError,
)
from cmesh.model import DayUse, Direction, Identity, Limits, Operation, Profile, TaskSpec
from cmesh.policy.decide import (
    DAY_CONDITIONS,
    Decision,
    InboundRequest,
    decide_inbound,
    may_delegate,
)
from cmesh.policy.explain import for_remote
from cmesh.policy.profiles import NamedProfile
from cmesh.protocol.answer import check_schema
from cmesh.runner.manifest import REPORTS
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from cmesh.store.records import DecisionRecord

__all__ = ["Admission", "Count", "Grant", "admit", "as_told", "principal", "task_request"]

BUSY_RETRY_S = 60
"""When a peer may ask again while places are taken: nobody knows when the next one ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an admitted task runs with: already narrowed by the rule.

    Attributes:
        directory: the name of the directory that policy allowed.
        judged: that directory itself, for whoever starts the task.
        bind_ignored: what it may read beside its copy of the directory.
        delegates: it may ask for tasks itself.
    """

    runner: Runner
    profile: NamedProfile
    directory: str
    judged: Judged
    limits: Limits
    on_revoke: Literal["end", "stay"]
    bind_ignored: tuple[str, ...] = ()
    delegates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The answer.

    Attributes:
        grant: None unless allowed or asked.
        code, reason, change: why not, as much as the caller may know.
        retry_after_s: when a like task may be taken; None = time alone does not help.
        record: the decision for the audit; holds all of it.
    """

    effect: Literal["allow", "ask", "deny"]
    record: DecisionRecord
    grant: Grant | None = None
    rule: str | None = None
    code: str = ""
    reason: str = ""
    change: str = ""
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Inbound tasks that count against limits.

    Attributes:
        of_peer: the asking peer's tasks that run or wait, without this one.
        unfinished: everybody's tasks that run or wait, without this one.
        counted: this one is in the store already, and so among today's.
        held: what the peer's other unfinished tasks may use yet.
    """

    of_peer: int
    unfinished: int
    counted: bool = False
    held: DayUse = field(default_factory=DayUse)


async def admit(parts: Parts, identity: Identity, spec: TaskSpec, count: Count) -> Admission:
    """Decide on a task. Blocks on the disk in a thread; never raises a denial."""
    config = parts.rules.config()
    found, runner, missing = await asyncio.to_thread(
        _find, parts.rules.roots, parts.runners(), spec
    )
    now = parts.clock.now()
    today = await parts.store.counts(identity.node_id, _midnight(now))
    asked = task_request(parts, identity, spec, found.path)
    request = replace(
        asked,
        running=count.of_peer,
        today=max(0, today - count.counted),
        used=parts.store.used(identity.node_id, _midnight(now)),
        held=count.held,
        reports_cost=runner is not None and runner.reports_cost,
        reports=frozenset(runner.manifest.reports) if runner is not None else frozenset(),
    )
    decision = parts.rules.honest(decide_inbound(request, config.policy))
    record = _record(identity, spec, decision, config.policy.sha256)
    if decision.effect == "deny" or decision.limits is None:
        told = for_remote(decision)
        return Admission(
            effect="deny",
            record=record,
            code=decision.code or "policy_denied",
            reason=told.reason,
            change=told.change,
            retry_after_s=_retry_after_s(decision, now, held=request.held != DayUse()),
        )
    obstacle = missing or await _obstacle(parts, spec, found, count)
    obstacle = obstacle or _unfit(parts, runner, spec, decision.profile)
    obstacle = obstacle or await asyncio.to_thread(_hidden, parts, found, decision.profile)
    obstacle = obstacle or await asyncio.to_thread(_untaken, parts, spec, found)
    if obstacle or runner is None or decision.profile is None or found.judged is None:
        return _refused(record, spec.runner, obstacle)
    grant = Grant(
        runner=runner,
        profile=decision.profile,
        directory=found.path,
        judged=found.judged,
        limits=decision.limits,
        on_revoke=decision.on_revoke,
        bind_ignored=decision.bind_ignored,
        delegates=may_delegate(asked, decision.rule, config.policy),
    )
    return Admission(effect=decision.effect, record=record, grant=grant, rule=decision.rule)


def task_request(
    parts: Parts, identity: Identity, spec: TaskSpec, directory: str
) -> InboundRequest:
    """Return what policy is asked about a task in its real directory, on its own.

    It counts no other task and takes for granted that the runner reports all it uses.
    """
    return InboundRequest(
        identity=identity,
        operation=_operation(spec),
        profile=spec.profile,
        runner=spec.runner,
        directory=directory,
        accept=spec.accept,
        artifacts=bool(spec.artifacts),
        runtime_s=spec.limits.runtime_s,
        output_bytes=spec.limits.output_bytes,
        cost_usd=spec.limits.cost_usd,
        turns=spec.limits.turns,
        tokens=spec.limits.tokens,
        running=0,
        today=0,
        reports_cost=True,
        reports=frozenset(REPORTS),
        chain=spec.origin,
        self_id=parts.self_id(),
        takes_changes=spec.changes is not None,
    )


def principal(identity: Identity) -> str:
    """Return who stands behind a node, for the audit: its tags, else its user."""
    return ",".join(identity.tags) or identity.user


def _operation(spec: TaskSpec) -> Operation:
    return Operation.TASK if spec.follows is None else Operation.FOLLOW_UP


def _find(
    roots: Roots, runners: Runners, spec: TaskSpec
) -> tuple[Found, Runner | None, CmeshError | None]:
    """Return the directory, and the runner or why there is none; in one thread's turn."""
    found = roots.find(spec.directory)
    try:
        return found, runners.resolve(spec.runner), None
    except CmeshError as error:
        return found, None, error


def _unfit(
    parts: Parts, runner: Runner | None, spec: TaskSpec, profile: NamedProfile | None
) -> CmeshError | None:
    """Say why the runner cannot run in the profile, which this machine can hold."""
    if runner is None:
        return None
    if runner.account and spec.profile is Profile.FULL:
        return SandboxUnavailable(
            f"runner `{spec.runner}` has an account's login there, which no task may hold, and"
            " profile `full` has nothing to keep it from one",
            hint="delegate with profile `query`, `edit` or `build`",
        )
    if spec.profile not in runner.manifest.profiles:
        return SandboxUnavailable(
            f"runner `{spec.runner}` has no profile `{spec.profile}` in this build",
            hint=f"it has {', '.join(runner.manifest.profiles)}",
        )
    if spec.profile is Profile.FULL:
        return None
    if (untested := runner.untested()) is not None:
        return untested
    try:
        if not runner.network(profile.hosts if profile else ()).empty:
            parts.sandboxes.require_network()
    except CmeshError as error:
        return error
    return None


def _hidden(parts: Parts, found: Found, profile: NamedProfile | None) -> CmeshError | None:
    """Say what the profile lists of the directory and is not to be had there."""
    if profile is None or found.judged is None:
        return None
    try:
        parts.sandboxes.require_parts(found.path, found.judged, profile)
    except CmeshError as error:
        return error
    except OSError as error:
        return PathRefused(f"`{found.path}` cannot be looked at: {error.strerror}", hint="")
    return None


def _untaken(parts: Parts, spec: TaskSpec, found: Found) -> CmeshError | None:
    """Say why the acceptance command, which policy has allowed, cannot run here."""
    if not spec.accept:
        return None
    if spec.profile is Profile.FULL:
        # INVARIANT: after an agent could write to a tree, no program runs on it but in a sandbox.
        return TaskRefused(
            "an acceptance command runs in the task's sandbox, and profile `full` has none",
            hint="delegate with profile `edit` or `build`, or without an acceptance command",
        )
    try:
        parts.runners().acceptance(spec.accept, found.path)
    except CmeshError as error:
        return error
    return None


def as_told(error: CmeshError, runner: str) -> CmeshError:
    """Return what the caller may know of why its task does not start.

    INVARIANT: why a runner cannot start names programs, key files and other runners, and why a
    path cannot be shown names what the owner lists; that is the owner's to know, and the
    decision's record has it all.
    """
    if isinstance(error, LoginExpired):
        return LoginExpired(
            f"the worker's login of runner `{runner}` has expired",
            hint=f"its owner logs in again there: cmesh runners login {runner}",
        )
    if isinstance(error, RunnerUnavailable):
        return RunnerUnavailable(
            f"runner `{runner}` cannot start on the worker",
            hint="its owner sees why with `cmesh status` there",
            retry_after_s=error.retry_after_s,
        )
    if isinstance(error, PathRefused):
        return PathRefused(
            "the profile there shows a part of the directory only, and that part is not to be had"
        )
    return error


async def _unmeetable(spec: TaskSpec) -> CmeshError | None:
    """Say what of a task's wishes for its result no machine could meet."""
    if spec.artifacts and spec.profile is Profile.QUERY:
        return TaskRefused(
            "a task of profile `query` makes no files to hand over",
            hint="ask for artifacts in profile edit, build or full",
        )
    try:
        if spec.answer_schema:
            await asyncio.to_thread(check_schema, spec.answer_schema)
    except UsageError as error:
        return TaskRefused(error.message, hint="")
    return None


async def _obstacle(parts: Parts, spec: TaskSpec, found: Found, count: Count) -> CmeshError | None:
    """Say what this machine lacks, after policy has allowed the task."""
    config = parts.rules.config()
    worker = config.worker
    try:
        await parts.sandboxes.require(spec.profile, found.path, config.sandbox)
    except SandboxUnavailable as error:
        return error
    if parts.is_root and not worker.allow_root:
        return RootRefused(
            "the worker's daemon runs as root and is not told to run tasks so",
            hint="run it as an ordinary user, or set `allow_root = true` under `[worker]`",
        )
    if found.obstacle is not None:
        return found.obstacle
    if (error := await _unmeetable(spec)) is not None:
        return error
    if count.unfinished >= worker.queue:
        return QueueFull(
            f"{count.unfinished} tasks run or wait on the worker already",
            retry_after_s=BUSY_RETRY_S,
        )
    if count.of_peer >= worker.queue_per_peer:
        return QueueFull(
            f"{count.of_peer} tasks of yours run or wait on the worker already",
            retry_after_s=BUSY_RETRY_S,
        )
    return None


def _midnight(now: datetime) -> datetime:
    """Return the beginning of the UTC day: what counts as today, for everybody alike."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _retry_after_s(decision: Decision, now: datetime, *, held: bool) -> int | None:
    """Return when time alone may have mended it: a new day, or the end of another task."""
    if decision.code != QueueFull.code:
        return None
    nearest = decision.failed[0].rule if decision.failed else ""
    kinds = {item.condition for item in decision.failed if item.rule == nearest}
    # What unfinished tasks may use yet comes back as far as they do not.
    if not kinds & DAY_CONDITIONS or ("per_day" not in kinds and held):
        return BUSY_RETRY_S
    return int((_midnight(now) + timedelta(days=1) - now).total_seconds()) + 1


def _refused(record: DecisionRecord, runner: str, error: CmeshError | None) -> Admission:
    error = error or CmeshError("the runner or the directory is missing")
    record = replace(record, effect="deny", reason=error.message)
    error = as_told(error, runner)
    return Admission(
        effect="deny",
        record=record,
        code=error.code,
        reason=error.message,
        change=error.hint,
        retry_after_s=error.retry_after_s,
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
        operation=_operation(spec).value,
        effect=decision.effect,
        rule=decision.rule,
        reason=decision.reason,
        failed=failed,
        policy_sha256=policy_sha256,
    )
