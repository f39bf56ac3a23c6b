"""What the daemon's operations take: one model an operation, validated here once.

Each is what an interface fills in and what travels over the control socket.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cmesh.model import Direction, Profile, TaskState

__all__ = [
    "ASKED_MOST",
    "PEERS_MOST",
    "PROMPT_CHARACTERS",
    "TEXT_CHARACTERS",
    "WAIT_S",
    "ApproveArguments",
    "Arguments",
    "ArtifactArguments",
    "CancelArguments",
    "CancelGroupArguments",
    "CheckPatchArguments",
    "Condition",
    "Context",
    "DelegateArguments",
    "ExplainArguments",
    "FanOutArguments",
    "GroupArguments",
    "GroupRef",
    "LiveRunArguments",
    "NewRunnerArguments",
    "NoArguments",
    "PatchArguments",
    "PeerName",
    "PeerPlace",
    "Prompt",
    "ReleaseArguments",
    "ReplyArguments",
    "ResultArguments",
    "RunnerArguments",
    "RunnerName",
    "SqlArguments",
    "TaskArguments",
    "TaskRef",
    "TasksArguments",
    "TrustArguments",
    "UntrustArguments",
]

PROMPT_CHARACTERS = 20_000


WAIT_S = 45


PEERS_MOST = 16
"""Peers that one call may ask."""

STATEMENT_CHARACTERS = 65_536

PARAMETERS_MOST = 100
"""Values that one statement may have bound to it."""

ASKED_MOST = 64
"""Peers that one fleet query names, or `all` stands for."""


TEXT_CHARACTERS = 10_000


PeerName = Annotated[str, Field(min_length=1, max_length=253)]

SqlValue = Annotated[str, Field(max_length=65_536)] | int | float | bool | None
ParameterName = Annotated[str, Field(min_length=1, max_length=64)]


def _without_null(text: str) -> str:
    """Refuse what the store cannot keep: a prompt must be the same after a restart."""
    if "\0" in text:
        raise ValueError("null characters cannot be sent")
    return text


Prompt = Annotated[str, AfterValidator(_without_null)]


GroupRef = Annotated[str, Field(min_length=4, max_length=36, pattern=r"^g-[0-9a-f]+$")]
"""A group's name, or the beginning of it."""


PeerPlace = Annotated[str, Field(min_length=1, max_length=4_400)]


Condition = Annotated[str, Field(min_length=1, max_length=200)]
"""A condition on a machine, see `cmesh.protocol.where`."""


RunnerName = Annotated[str, Field(max_length=80, pattern=r"^[a-z0-9_-]+(:[A-Za-z0-9._-]+)?$")]


TaskRef = Annotated[str, Field(min_length=4, max_length=36, pattern=r"^[0-9a-f-]+$")]


class Arguments(BaseModel):
    """Arguments of an operation; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoArguments(Arguments):
    """For operations that take none."""


class CopyArguments(Arguments):
    """Arguments of `copy_store`. `export_to`: where an export of it goes; empty = nowhere."""

    export_to: Annotated[str, Field(max_length=4_096)] = ""


class Context(Arguments):
    """Who asks, locally: one per control connection.

    Attributes:
        session: names the agent session; tasks are deduplicated and listed per session.
        project: directory the agent or person works in; empty when unknown.
        agent: client name and version as it says, for the audit row.
        pid: process that opened the connection.
        traceparent: W3C Trace Context of this one call, as its client gave it; or empty.
    """

    session: str = Field(max_length=128)
    project: str = Field(default="", max_length=4096)
    agent: str = Field(default="", max_length=128)
    pid: int = 0
    traceparent: str = ""


class DelegateArguments(Arguments):
    """Arguments of `delegate`: `peer`, or `where` to have one chosen."""

    peer: str = Field(default="", max_length=253)
    where: list[Condition] = Field(
        default_factory=list[Condition],
        max_length=16,
        description="without `peer`: what its machine must be like",
    )
    prompt: Prompt = Field(min_length=1, max_length=PROMPT_CHARACTERS)
    directory: str = Field(
        min_length=1, max_length=4096, description="absolute directory on the worker"
    )
    runner: RunnerName = "claude"
    profile: Profile = Profile.QUERY
    base: Literal["head", "working-tree"] = Field(
        default="head",
        description="what the copy of edit and build holds: the directory's commit, or with its "
        "uncommitted changes of tracked files",
    )
    with_changes: bool = Field(
        default=False,
        description="send this project's uncommitted changes along: the copy of edit and build is "
        "your commit with them, and the patch fits your tree",
    )
    untracked: bool = Field(
        default=False, description="with with_changes: files that git does not track, too"
    )
    accept: list[str] = Field(default_factory=list[str], max_length=64)
    artifacts: list[str] = Field(
        default_factory=list[str],
        max_length=16,
        description="globs of files it hands over at its end, such as `dist/*.whl`; not for query",
    )
    answer_schema: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="JSON Schema (2020-12) of the one JSON object it must answer with, checked here; "
        "none = any text",
    )
    timeout_s: int = Field(default=900, ge=1, le=14_400)
    turns: int = Field(
        default=0, ge=0, le=1_000_000, description="answers of its model at most; 0 = no limit"
    )
    tokens: int = Field(
        default=0, ge=0, le=10**12, description="tokens read and written at most; 0 = no limit"
    )
    cost_usd: float = Field(
        default=0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="US dollars it may cost; 0 = no limit",
    )
    wait_s: float = Field(default=0, ge=0, le=WAIT_S)
    idempotency_key: str = Field(default="", max_length=200)
    new: bool = Field(
        default=False,
        description="start again although an equal task of this agent session is unfinished",
    )
    if_offline: Literal["fail", "queue"] = Field(
        default="fail",
        description="what to do when the peer cannot be reached now: fail, or queue the task here",
    )
    start_within_s: int = Field(
        default=0,
        ge=0,
        le=30 * 86_400,
        description="seconds in which it must start, else it expires; 0 = 1 h, queued 24 h",
    )


class FanOutArguments(DelegateArguments):
    """Arguments of `fan_out`: a task for each of `peers`, or for each that `where` holds for.

    A peer is a name, or `NAME:/directory` where it has another directory than the rest.
    """

    directory: str = Field(default="", max_length=4096)
    peers: list[PeerPlace] = Field(default_factory=list[PeerPlace], max_length=PEERS_MOST)


class GroupArguments(Arguments):
    """Arguments of `get_group`: answers at once when another number of tasks has ended."""

    group: GroupRef
    wait_s: float = Field(default=0, ge=0, le=WAIT_S)
    known_ended: int | None = Field(default=None, ge=0)


class CancelGroupArguments(Arguments):
    """Arguments of `cancel_group`."""

    group: GroupRef
    reason: str = Field(default="", max_length=500)


class ReplyArguments(Arguments):
    """Arguments of `reply_task`: another turn of a task that succeeded or failed.

    Runner, profile and directory are those of the task, and so are the limits; `timeout_s`,
    `turns`, `tokens` and `cost_usd` can only be less (0 = as the task's).
    """

    task_id: TaskRef
    prompt: Prompt = Field(min_length=1, max_length=PROMPT_CHARACTERS)
    answer_schema: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="JSON Schema of this turn's answer; none = text"
    )
    same_schema: bool = Field(
        default=False,
        description="answer by the JSON Schema of the turn before, as after answer_invalid",
    )
    timeout_s: int = Field(default=0, ge=0, le=14_400)
    turns: int = Field(default=0, ge=0, le=1_000_000, description="a lower limit than the task's")
    tokens: int = Field(default=0, ge=0, le=10**12, description="likewise")
    cost_usd: float = Field(
        default=0, ge=0, le=1_000_000, allow_inf_nan=False, description="likewise"
    )
    wait_s: float = Field(default=0, ge=0, le=WAIT_S)
    idempotency_key: str = Field(default="", max_length=200)
    if_offline: Literal["fail", "queue"] = Field(
        default="fail", description="when the peer cannot be reached now, as for delegate"
    )
    start_within_s: int = Field(
        default=0, ge=0, le=30 * 86_400, description="seconds in which it must start, as there"
    )


class TaskArguments(Arguments):
    """Arguments of `get_task`: answers at once when the state differs from `known_state`."""

    task_id: TaskRef
    wait_s: float = Field(default=0, ge=0, le=WAIT_S)
    known_state: TaskState | None = None
    after_event: int = Field(default=0, ge=0)
    events: int = Field(default=20, ge=0, le=200)


class TasksArguments(Arguments):
    """Arguments of `list_tasks`, newest first."""

    state: TaskState | Literal["open", "any"] = "any"
    mine: bool = False
    group: str = Field(default="", max_length=36, pattern=r"^(g-[0-9a-f]+)?$")
    direction: Direction | Literal["any"] = "any"
    limit: int = Field(default=20, ge=1, le=200)


class ResultArguments(Arguments):
    """Arguments of `get_result`; offsets and limits count characters of the part."""

    task_id: TaskRef
    part: Literal["summary", "output", "errors", "patch", "artifacts", "acceptance", "answer"] = (
        "summary"
    )
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=8_000, ge=1, le=TEXT_CHARACTERS)


class PatchArguments(Arguments):
    """Arguments of `get_patch`: its bytes from `offset`, as many as one answer holds."""

    task_id: TaskRef
    offset: int = Field(default=0, ge=0)


class ArtifactArguments(Arguments):
    """Arguments of `get_artifact`: a file by its path in the list of the task's files."""

    task_id: TaskRef
    path: str = Field(min_length=1, max_length=320)
    offset: int = Field(default=0, ge=0)


class CheckPatchArguments(Arguments):
    """Arguments of `check_patch`; an empty `directory` is the asking project."""

    task_id: TaskRef
    directory: str = Field(
        default="",
        max_length=4096,
        description="directory in the repository to check, in this project; empty = the project",
    )


class CancelArguments(Arguments):
    """Arguments of `cancel_task`."""

    task_id: TaskRef
    reason: str = Field(default="", max_length=500)


class ApproveArguments(Arguments):
    """Arguments of `approve_task`: the owner's word on a task that waits for it."""

    task_id: TaskRef
    approve: bool
    reason: str = Field(default="", max_length=500)


class ReleaseArguments(Arguments):
    """Arguments of `release`: what to release, by the SHA-256 its owner saw; none = only look."""

    task_id: TaskRef
    sha256: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=list[str], max_length=65
    )


class TrustArguments(Arguments):
    """Arguments of `peers trust`: `fingerprint` guards against a swap between look and trust."""

    peer: PeerName
    fingerprint: str = Field(default="", max_length=64)


class UntrustArguments(Arguments):
    """Arguments of `peers untrust`: a name or node id, also of a peer that has left."""

    peer: PeerName


class SqlArguments(Arguments):
    """Arguments of `sql`: one SELECT over the audit views, on a snapshot.

    `parameters`: in order for `?` or `$1`, or by name for `$name`; never part of the statement.
    `peers`: nodes that run it as well, `all` alone = every one whose key is trusted; then `local`
    says whether this node does too, `limit` is of each node, and `timeout_s` is how long each is
    waited for.
    """

    sql: str = Field(min_length=1, max_length=STATEMENT_CHARACTERS)
    parameters: list[SqlValue] | dict[ParameterName, SqlValue] = Field(
        default_factory=list[SqlValue], max_length=PARAMETERS_MOST
    )
    limit: int = Field(default=1_000, ge=1, le=100_000)
    peers: list[PeerName] = Field(default_factory=list[str], max_length=ASKED_MOST)
    local: bool = True
    timeout_s: float = Field(default=20, gt=0, le=120, allow_inf_nan=False)


class RunnerArguments(Arguments):
    """Arguments of `check_runner`."""

    name: RunnerName


class LoginArguments(Arguments):
    """Arguments of `keep_login` and `drop_login`; what was logged in with stands in a file."""

    name: RunnerName


class NewRunnerArguments(Arguments):
    """Arguments of `new_runner`: `program` is a name or an absolute path; empty = `name`."""

    name: RunnerName
    program: str = Field(default="", max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")
    force: bool = False


class LiveRunArguments(Arguments):
    """Arguments of `test_runner`: `full` runs it without a sandbox."""

    name: RunnerName
    full: bool = False


class ExplainArguments(Arguments):
    """Arguments of `policy explain`: would this be allowed, by which rule, and why not.

    `project`: outbound, where the request comes from; empty = where its asker is.
    """

    direction: Literal["inbound", "outbound"]
    peer: PeerName
    operation: str = "task"
    profile: Profile = Profile.QUERY
    runner: str = "claude"
    directory: str = ""
    accept: list[str] = Field(default_factory=list[str])
    timeout_s: int = 900
    turns: int = Field(default=0, ge=0, le=1_000_000)
    tokens: int = Field(default=0, ge=0, le=10**12)
    cost_usd: float = Field(default=0, ge=0, le=1_000_000, allow_inf_nan=False)
    prompt_bytes: int = 0
    project: str = Field(default="", max_length=4096)
