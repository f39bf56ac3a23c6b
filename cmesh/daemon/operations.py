"""The operations every interface calls: arguments, answers and the protocol that serves them.

The CLI, the MCP server and the control socket know the daemon only through
`Operations`. Arguments are validated here once; answers are what `--json`
prints and what MCP results carry.
"""

from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from cmesh.model import Direction, Profile, TaskState

__all__ = [
    "ApproveArguments",
    "Arguments",
    "CancelArguments",
    "ConditionView",
    "Context",
    "DecisionView",
    "DelegateArguments",
    "EventView",
    "ExplainArguments",
    "NoArguments",
    "Operations",
    "PeerView",
    "PeersView",
    "Problem",
    "ResultArguments",
    "ResultView",
    "SqlArguments",
    "SqlView",
    "StatusView",
    "TaskArguments",
    "TaskView",
    "TasksArguments",
    "TasksView",
    "TrustArguments",
    "View",
]

PROMPT_CHARACTERS = 20_000
WAIT_S = 45
TEXT_CHARACTERS = 10_000

PeerName = Annotated[str, Field(min_length=1, max_length=253)]
TaskRef = Annotated[str, Field(min_length=4, max_length=36, pattern=r"^[0-9a-f-]+$")]


class Arguments(BaseModel):
    """Arguments of an operation; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    """An answer; fields are stable, new ones may be added."""

    model_config = ConfigDict(frozen=True)


class NoArguments(Arguments):
    """For operations that take none."""


class Context(Arguments):
    """Who asks, locally: one per control connection.

    Attributes:
        session: names the agent session; tasks are deduplicated and listed per session.
        project: directory the agent or person works in; empty when unknown.
        agent: client name and version as it says, for the audit row.
        pid: process that opened the connection.
    """

    session: str = Field(max_length=128)
    project: str = Field(default="", max_length=4096)
    agent: str = Field(default="", max_length=128)
    pid: int = 0


class DelegateArguments(Arguments):
    """Arguments of `delegate`."""

    peer: PeerName
    prompt: str = Field(min_length=1, max_length=PROMPT_CHARACTERS)
    directory: str = Field(
        min_length=1, max_length=4096, description="absolute directory on the worker"
    )
    runner: str = Field(
        default="claude", max_length=80, pattern=r"^[a-z0-9_-]+(:[A-Za-z0-9._-]+)?$"
    )
    profile: Profile = Profile.QUERY
    accept: list[str] = Field(default_factory=list[str], max_length=64)
    timeout_s: int = Field(default=900, ge=1, le=14_400)
    wait_s: float = Field(default=0, ge=0, le=WAIT_S)
    idempotency_key: str = Field(default="", max_length=200)
    new: bool = Field(default=False, description="start again although an equal task is unfinished")


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
    direction: Direction | Literal["any"] = "any"
    limit: int = Field(default=20, ge=1, le=200)


class ResultArguments(Arguments):
    """Arguments of `get_result`; offsets and limits count characters of the part."""

    task_id: TaskRef
    part: Literal["summary", "output", "errors"] = "summary"
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=8_000, ge=1, le=TEXT_CHARACTERS)


class CancelArguments(Arguments):
    """Arguments of `cancel_task`."""

    task_id: TaskRef
    reason: str = Field(default="", max_length=500)


class ApproveArguments(Arguments):
    """Arguments of `approve_task`: the owner's word on a task that waits for it."""

    task_id: TaskRef
    approve: bool
    reason: str = Field(default="", max_length=500)


class TrustArguments(Arguments):
    """Arguments of `peers trust`: `fingerprint` guards against a swap between look and trust."""

    peer: PeerName
    fingerprint: str = Field(default="", max_length=64)


class SqlArguments(Arguments):
    """Arguments of `sql`: one SELECT over the audit views, on a snapshot."""

    sql: str = Field(min_length=1, max_length=65_536)
    parameters: list[str | int | float | bool | None] = Field(
        default_factory=list[str | int | float | bool | None], max_length=100
    )
    limit: int = Field(default=1_000, ge=1, le=100_000)


class ExplainArguments(Arguments):
    """Arguments of `policy explain`: would this be allowed, by which rule, and why not."""

    direction: Literal["inbound", "outbound"]
    peer: PeerName
    operation: str = "task"
    profile: Profile = Profile.QUERY
    runner: str = "claude"
    directory: str = ""
    accept: list[str] = Field(default_factory=list[str])
    timeout_s: int = 900
    prompt_bytes: int = 0


class ConditionView(View):
    """One condition of a rule that did not hold."""

    rule: str
    condition: str
    wanted: str
    got: str


class DecisionView(View):
    """A policy decision, as much of it as the asker may know."""

    effect: Literal["allow", "deny", "ask"]
    rule: str | None = None
    failed: list[ConditionView] = Field(default_factory=list[ConditionView])
    change: str = ""


class EventView(View):
    """One event of a task; remote text, scrubbed and capped."""

    seq: int
    ts: datetime
    kind: str
    text: str = ""
    data: dict[str, object] = Field(default_factory=dict[str, object])


class TaskView(View):
    """A task as this node knows it.

    `witness` is what the state rests on; `known_s` is how many seconds ago
    this node last had word of it; `summary` and `events` are remote text.
    """

    task_id: str
    direction: Direction
    peer: str
    node_id: str
    state: TaskState
    witness: str
    known_s: float
    link: Literal["connected", "connecting", "down", "none"] = "none"
    runner: str
    profile: Profile
    directory: str
    prompt: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    elapsed_s: float = 0
    rule: str | None = None
    reason: str = ""
    code: str = ""
    summary: str = ""
    exit_code: int | None = None
    cost_usd: float | None = None
    profile_enforced: str = ""
    credential: str = ""
    processes_left: int | None = None
    cancel_requested: bool = False
    receipt: Literal["none", "pending", "complete"] = "none"
    duplicate_of: str | None = None
    events: list[EventView] = Field(default_factory=list[EventView])
    last_event: int = 0


class TasksView(View):
    """A page of tasks, newest first; `more` says that older ones exist."""

    tasks: list[TaskView]
    more: bool = False


class ResultView(View):
    """A slice of one part of a result; remote text, not yet fenced."""

    task_id: str
    peer: str
    state: TaskState
    part: str
    text: str
    offset: int
    total: int
    next_offset: int | None = None
    sha256: str = ""
    truncated: bool = False
    self_attested: bool = True


class PeerView(View):
    """A node of the tailnet, and what is known of cmesh on it."""

    name: str
    node_id: str
    user: str = ""
    tags: list[str] = Field(default_factory=list[str])
    addresses: list[str] = Field(default_factory=list[str])
    online: bool = False
    expired: bool = False
    shared: bool = False
    link: Literal["connected", "connecting", "down", "none"] = "none"
    trust: Literal["trusted", "waiting", "changed", "unknown"] = "unknown"
    fingerprint: str = ""
    version: str = ""
    may_ask: list[str] = Field(
        default_factory=list[str], description="profiles I may ask for there"
    )
    runners: list[str] = Field(default_factory=list[str])
    paths: list[str] = Field(default_factory=list[str])
    last_contact_s: float | None = None


class PeersView(View):
    """All peers; the embedded node itself is not one."""

    peers: list[PeerView]


class Problem(View):
    """Something that keeps this node from its work, and the next step."""

    code: str
    what: str
    next: str


class StatusView(View):
    """What this daemon is and does.

    `phase`: `setup` = not configured, no node; `login` = waits for `login_url`;
    `up` = on the tailnet; `down` = stopped by `cmesh down`.
    """

    version: str
    phase: Literal["setup", "starting", "login", "up", "down", "failed"]
    node: str = ""
    node_id: str = ""
    user: str = ""
    addresses: list[str] = Field(default_factory=list[str])
    tailnet: str = ""
    testnet: bool = False
    login_url: str = ""
    key_expiry: datetime | None = None
    fingerprint: str = ""
    links: int = 0
    running: int = 0
    waiting: int = 0
    worker: bool = False
    profiles: list[str] = Field(default_factory=list[str])
    runners: list[str] = Field(default_factory=list[str])
    state_dir: str = ""
    config_file: str = ""
    pid: int = 0
    uptime_s: float = 0
    store_seq: int = 0
    problems: list[Problem] = Field(default_factory=list[Problem])


class SqlView(View):
    """Rows of a query as JSON values, with what was cut."""

    columns: list[str]
    types: list[str]
    rows: list[list[object]]
    truncated: bool = False
    elapsed_ms: float = 0
    head_seq: int = 0


class Operations(Protocol):
    """The daemon's operations. All raise `CmeshError`; none blocks the event loop.

    A cancelled call never cancels a task.
    """

    async def status(self, context: Context, arguments: NoArguments) -> StatusView:
        """Return what this daemon is and does; never fails because the node is down."""
        ...

    async def list_peers(self, context: Context, arguments: NoArguments) -> PeersView:
        """Return the tailnet's nodes with link, trust and what may be asked of them."""
        ...

    async def trust_peer(self, context: Context, arguments: TrustArguments) -> PeerView:
        """Pin the cmesh key a peer has shown; audited."""
        ...

    async def delegate(self, context: Context, arguments: DelegateArguments) -> TaskView:
        """Decide outbound, store the task, then submit it; waits up to `wait_s` for its end."""
        ...

    async def get_task(self, context: Context, arguments: TaskArguments) -> TaskView:
        """Return a task, waiting up to `wait_s` for a change of state or a new event."""
        ...

    async def list_tasks(self, context: Context, arguments: TasksArguments) -> TasksView:
        """Return tasks, newest first."""
        ...

    async def get_result(self, context: Context, arguments: ResultArguments) -> ResultView:
        """Return a slice of a finished task's result."""
        ...

    async def cancel_task(self, context: Context, arguments: CancelArguments) -> TaskView:
        """Store the wish to cancel, then pass it on; the answer is the task, not the end."""
        ...

    async def approve_task(self, context: Context, arguments: ApproveArguments) -> TaskView:
        """Let a waiting inbound task run, or refuse it."""
        ...

    async def sql(self, context: Context, arguments: SqlArguments) -> SqlView:
        """Run one SELECT in the confined query process; sees everything committed before."""
        ...

    async def explain(self, context: Context, arguments: ExplainArguments) -> DecisionView:
        """Decide a hypothetical request with today's rules; nothing is stored or sent."""
        ...

    async def login(self, context: Context, arguments: NoArguments) -> StatusView:
        """Start a login and return as soon as a URL is known or the node is up."""
        ...

    async def down(self, context: Context, arguments: NoArguments) -> StatusView:
        """Stop the daemon after this answer; running tasks go on under their shims."""
        ...
