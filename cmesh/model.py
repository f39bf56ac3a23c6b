"""The values every part speaks of: ids, states, identities, tasks, results.

Frozen, without behaviour that needs I/O or a clock. Nothing here decides.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, NewType

__all__ = [
    "ENDED",
    "NEVER_RAN",
    "TERMINAL",
    "Changes",
    "DayUse",
    "Direction",
    "Event",
    "Identity",
    "Limits",
    "NodeId",
    "Operation",
    "Profile",
    "Result",
    "TaskId",
    "TaskSpec",
    "TaskState",
    "Usage",
    "host_label",
]

TaskId = NewType("TaskId", str)
"""A UUIDv7 (RFC 9562) in its canonical lower-case text form, made by the caller's daemon."""

NodeId = NewType("NodeId", str)
"""Tailscale's stable node id, for example `nABC123CNTRL`."""


class Direction(StrEnum):
    """Which side of a task this node is: `out` = caller, `in` = worker."""

    OUT = "out"
    IN = "in"


class TaskState(StrEnum):
    """The states a person or an agent sees; the table is in `cmesh.protocol.state`."""

    SUBMITTING = "submitting"
    QUEUED = "queued"
    WAITING_APPROVAL = "waiting_approval"
    WAITING_INPUT = "waiting_input"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    DENIED = "denied"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


TERMINAL = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.CANCELLED,
        TaskState.TIMED_OUT,
        TaskState.INTERRUPTED,
        TaskState.DENIED,
        TaskState.EXPIRED,
    }
)


ENDED = TERMINAL | {TaskState.WAITING_INPUT}
"""What a task is shown as once it has ended: it waits for input when its agent asked back.

INVARIANT: no task that goes on is shown so; that a worker says it of a running one is ignored.
"""

NEVER_RAN = frozenset({TaskState.DENIED, TaskState.EXPIRED})
"""Ends that say for certain that nothing was started; `cancelled` alone does not."""


class Profile(StrEnum):
    """What a task may do on the worker; `full` has no sandbox and needs its own rule."""

    QUERY = "query"
    EDIT = "edit"
    BUILD = "build"
    FULL = "full"


class Operation(StrEnum):
    """What a caller asks a worker to do; policy grants each by name."""

    TASK = "task"
    FOLLOW_UP = "follow_up"
    ACCEPT = "accept"
    ARTIFACT = "artifact"
    SQL_OWN = "sql_own"
    SQL_ALL = "sql_all"
    DELEGATE = "delegate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a tailnet address belongs to, as whois answered (Tailscale LocalAPI `WhoIsResponse`).

    Attributes:
        node_id: stable node id; what trust is pinned to.
        name: MagicDNS name without the final dot.
        user: login name of the owner; empty for tagged nodes.
        tags: ACL tags, for example `tag:laptop`; a tagged node has no user.
        addresses: the node's tailnet addresses.
        expired: the node key has expired; whois still answers, policy must deny.
        key_expiry: when the node key expires; None = never.
        shared: the node belongs to another tailnet (sharer or sharee).
        router: the node advertises routes, so packets may not be its own.
        ephemeral: the node goes away with its process.
        capabilities: grants of the tailnet's policy to this peer, by capability name.
    """

    node_id: NodeId
    name: str
    user: str = ""
    tags: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    expired: bool = False
    key_expiry: datetime | None = None
    shared: bool = False
    router: bool = False
    ephemeral: bool = False
    capabilities: Mapping[str, tuple[object, ...]] = field(
        default_factory=dict[str, tuple[object, ...]]
    )

    @property
    def label(self) -> str:
        """The host's own part of its name, as people are shown it and say it."""
        return host_label(self.name)


def host_label(name: str) -> str:
    """Return the first label of a MagicDNS name."""
    return name.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a task may use. None = no limit of this kind.

    Attributes:
        runtime_s: seconds of wall time from start to end.
        output_bytes: bytes of output kept; the rest is counted and dropped.
        cost_usd: US dollars, for runners that report cost.
        turns: answers of the model, its subagents' too, for runners that tell them.
        tokens: read and written together, for runners that tell them while they run.
    """

    runtime_s: int = 900
    output_bytes: int = 16 * 1024 * 1024
    cost_usd: float | None = None
    turns: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayUse:
    """What tasks of one peer have used, or may use; added up for budgets of a day."""

    cost_usd: float = 0.0
    tokens: int = 0
    runtime_s: float = 0.0

    def __add__(self, other: "DayUse") -> "DayUse":
        """Return the sum."""
        return DayUse(
            cost_usd=self.cost_usd + other.cost_usd,
            tokens=self.tokens + other.tokens,
            runtime_s=self.runtime_s + other.runtime_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Uncommitted changes that travel with a task: a binary patch, sent apart from it.

    Attributes:
        commit: full id of what they are made on.
        sha256: of the patch, in hex.
        bytes: its length; 0 = nothing differs from the commit.
        bundle: a worker that lacks the commit may ask for it. Not hashed: with it or without, the
            same is to be done.
    """

    commit: str
    sha256: str
    bytes: int
    bundle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What a caller asks for. Its hash is bound to the task id on the worker.

    Attributes:
        runner: an agent by its manifest's name, or `command:NAME` for an allow-listed
            argv of the worker.
        directory: absolute path on the worker, of its system.
        accept: an acceptance command, exact argv; empty = none.
        origin: node ids of the chain that led here, first caller first.
        not_after: the worker never starts the task later than this.
        traceparent: W3C Trace Context header, or empty.
        follows: the task whose conversation this one continues; None = a first turn.
        artifacts: globs of files to hand over when it has ended; empty = none.
        base: what a copy of the directory holds, where that is a repository with a commit: empty
            = that commit, `working-tree` = with the changes of what is tracked.
        changes: of the caller, that the copy holds instead; None = none.
        answer_schema: JSON Schema, as JSON text, of the answer it must end with; empty = any text.
    """

    task_id: TaskId
    runner: str
    profile: Profile
    directory: str
    prompt: str
    limits: Limits
    accept: tuple[str, ...] = ()
    origin: tuple[NodeId, ...] = ()
    not_after: datetime
    traceparent: str = ""
    follows: TaskId | None = None
    artifacts: tuple[str, ...] = ()
    base: Literal["", "working-tree"] = ""
    changes: Changes | None = None
    answer_schema: str = ""

    def payload_hash(self) -> str:
        """Return the SHA-256 (hex) over the canonical JSON of every field.

        Without `follows`, `base`, `changes` and limits of turns and tokens where they say nothing: they came later. Equal values hash alike in any form: 5 and 5.0 dollars, a moment in any time zone.
        """
        cost = self.limits.cost_usd
        values = _shallow(self) | {
            "limits": _limits(self.limits) | {"cost_usd": None if cost is None else float(cost)},
            "not_after": self.not_after.astimezone(UTC).isoformat(),
        }
        if self.changes is not None:
            values["changes"] = _shallow(self.changes)
            del values["changes"]["bundle"]
        for later in ("follows", "artifacts", "base", "changes", "answer_schema"):
            if not values[later]:
                del values[later]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of a running task, numbered from 1 without holes.

    Attributes:
        kind: `text`, `tool_call`, `tool_result`, `file_change`, `retry`, `rate_limit`,
            `cost`, `output`, `warning`, `raw`, or a state's name.
        text: scrubbed, capped text for people.
        data: kind-specific JSON object; small. `docs/agents.md` lists its keys.
    """

    seq: int
    ts: datetime
    kind: str
    text: str = ""
    data: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run used, as far as its runner reports it. None = not reported."""

    cost_usd: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    turns: int | None = None

    @property
    def tokens(self) -> int | None:
        """Return the tokens read and written together; None = not reported."""
        told = [count for count in (self.tokens_in, self.tokens_out) if count is not None]
        return sum(told) if told else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a task ended, and the evidence for it.

    Attributes:
        state: a terminal state.
        witness: what the state rests on, for example `shim recorded exit 0`.
        exit_code: of the runner process; None when it never ran. Negative = signal.
        text: the runner's final text, capped.
        code: error code of a failure cmesh itself explains; empty otherwise.
        output_bytes: bytes the runner wrote in all.
        output_kept: bytes kept of them, from the start.
        output_sha256: hex digest of the kept output; empty when there is none.
        truncated: the output was longer than the limit.
        profile_enforced: sandbox tier, `none` means the result is self-attested.
        credential: `none`, `gateway` or `exposed`.
        processes_left: counted when the task ended; 0 for `cancelled`.
        follow_up: `possible`, or why the conversation cannot go on: `runner_cannot`,
            `session_gone`; empty = the worker says nothing of it.
        follow_up_until: how long the worker keeps the conversation; None = it has none.
        redacted: secrets that the worker took out of texts and output before anything was kept.
        basis: what the worker says the run was allowed by, for its signature to cover: see
            `cmesh.protocol.outcome.Basis`; empty = an older worker, or none yet.
        patch: what the task changed of its copy: see `cmesh.protocol.outcome.Patch`; empty = it
            had none.
        artifacts: files it handed over: see `cmesh.protocol.messages.Artifacts`; empty = it was
            asked for none.
        evidence: what the worker found out about the run: see `cmesh.protocol.evidence.Evidence`;
            empty = an older worker, or it never ran.
        answer: JSON text of the answer that fits the schema it was asked for; empty = none.
        extra: what a newer worker signed besides, as it came.
    """

    state: TaskState
    witness: str
    exit_code: int | None = None
    text: str = ""
    error: str = ""
    code: str = ""
    output_bytes: int = 0
    output_kept: int = 0
    output_sha256: str = ""
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)
    runner_version: str = ""
    profile_enforced: str = "none"
    credential: str = "none"
    processes_left: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    follow_up: str = ""
    follow_up_until: datetime | None = None
    redacted: int = 0
    basis: Mapping[str, object] = field(default_factory=dict[str, object])
    patch: Mapping[str, object] = field(default_factory=dict[str, object])
    artifacts: Mapping[str, object] = field(default_factory=dict[str, object])
    evidence: Mapping[str, object] = field(default_factory=dict[str, object])
    answer: str = ""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])


def _limits(limits: Limits) -> dict[str, object]:
    later = {"turns", "tokens"}
    return {
        name: value
        for name, value in _shallow(limits).items()
        if value is not None or name not in later
    }


def _shallow(value: "TaskSpec | Limits | Changes") -> dict[str, object]:
    """Return the fields as they are; `dataclasses.asdict` would copy each one deeply."""
    return {item.name: getattr(value, item.name) for item in fields(value)}
