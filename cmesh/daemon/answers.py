"""What the daemon's operations answer: what `--json` prints and what MCP results carry.

Fields are stable; new ones may be added. How they are filled: `views`, `overview`.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cmesh.daemon.evidence_answers import EvidenceView, View
from cmesh.daemon.file_answers import ArtifactView, PatchView
from cmesh.daemon.fleet_view import SqlNodeView
from cmesh.model import Direction, Profile, TaskState

if TYPE_CHECKING:  # commands load these views, and no store
    from cmesh.store.records import SqlRows

__all__ = [
    "SUMMARY_CHARACTERS",
    "ConditionView",
    "CopyView",
    "DecisionView",
    "EventView",
    "GroupView",
    "MachineView",
    "OutboxView",
    "PeerView",
    "PeersView",
    "Problem",
    "RefusedView",
    "ResultView",
    "RunnerFactView",
    "SqlView",
    "StatusView",
    "TaskView",
    "TasksView",
    "UntrustView",
    "View",
    "WillRunView",
]

SUMMARY_CHARACTERS = 1_500


class ConditionView(View):
    """One condition of a rule that did not hold."""

    rule: str
    condition: str
    wanted: str
    got: str


class DecisionView(View):
    """A policy decision, as much of it as the asker may know.

    `there`: what the peer would deny all the same, by what it has said that it offers; for
    outbound, empty = nothing that is known.
    """

    effect: Literal["allow", "deny", "ask"]
    rule: str | None = None
    failed: list[ConditionView] = Field(default_factory=list[ConditionView])
    change: str = ""
    there: str = ""


class EventView(View):
    """One event of a task; remote text, scrubbed and capped."""

    seq: int
    ts: datetime
    kind: str
    text: str = ""
    data: dict[str, object] = Field(default_factory=dict[str, object])


class WillRunView(View):
    """What a task that waits for this machine's owner would start; `obstacle` says why it cannot.

    `narrowed`: what a profile of the owner takes away from its base, a fact each.
    `changes`: what of the caller's uncommitted changes comes into the copy; empty = none.
    `bind_ignored`: folders that are shown beside the copy. `accept`: the acceptance command that
    runs after it. `artifacts`: globs of files that it hands over. `preface`: what it is told by
    cmesh beside the prompt, `{preface}` in `argv`; `answer`: how it is held to a JSON Schema.
    `prompt`: all that it asks, with what cannot be seen written as `<U+202E>`.
    """

    prompt: str = ""

    argv: list[str] = Field(default_factory=list[str])
    directory: str = ""
    profile: str = ""
    narrowed: list[str] = Field(default_factory=list[str])
    changes: str = ""
    bind_ignored: list[str] = Field(default_factory=list[str])
    accept: list[str] = Field(default_factory=list[str])
    artifacts: list[str] = Field(default_factory=list[str])
    preface: str = ""
    answer: str = ""
    runtime_s: int = 0
    obstacle: str = ""


class LimitsView(View):
    """Limits of a task; None = none of this kind."""

    runtime_s: int | None = None
    output_bytes: int | None = None
    cost_usd: float | None = None
    turns: int | None = None
    tokens: int | None = None


class TaskView(View):
    """A task as this node knows it.

    `witness` is what the state rests on; `known_s` is how many seconds ago
    this node last had word of it; `known_at` is when its worker last said
    something, None for tasks worked on here and when it never did; `link` is that with
    the other node, None once the task has ended and needs it no more; `summary`
    and `events` are remote text.
    `turn` counts from 1 within `thread`, the first task of the conversation;
    `follow_up` says whether `reply_task` can go on: `possible` until
    `follow_up_until`, `followed` by `followed_by`, `session_gone`, `runner_cannot`.
    `question`: what its agent asks back, by the last line of its text, as long as it can be
    answered by `reply_task`; remote text. One that succeeded is `waiting_input` so long.
    `answer_asked`: it is to answer by a JSON Schema; `answer`: the object that fits it, checked on
    this node; remote data.
    `advice`: for a task that its worker's policy denied, what the worker offers instead; remote
    text. `expires_at`: when it is given up unless it has started; None once it has.
    `events_cut`: the worker sent more events than are kept. `retry_after_s`: seconds from
    now after which a refused task may be asked for anew, or is by itself while it is open.
    `tokens`, `model_turns` and `cost_usd`: the bill, as far as the runner tells it; `limits`: what
    the task is to stay within, on its worker as the rule there has it.
    `prompt_redacted`: secrets that were taken out of this call's prompt before it was kept or
    sent. `redacted`: secrets that the worker took out of texts and output.
    `will_run`: for a task that waits for this machine's owner, what a yes would start.
    `patch`: what a task on a copy changed of it, once it has ended. `verdict`: what the agent
    says of an ended task, and what checks say, in cmesh's words; `evidence` is what those rest on.
    `accept`: the acceptance command, empty = none.
    `chosen`: how its peer was chosen by what its machine is like; empty = it was named.
    `group`: of the tasks that one call asked of several peers.
    `forgotten`: its texts and files were erased here, and the signatures over them.
    """

    task_id: str
    direction: Direction
    peer: str
    node_id: str
    state: TaskState
    witness: str
    known_s: float
    known_at: datetime | None = None
    link: Literal["connected", "connecting", "down", "none"] | None = None
    runner: str
    profile: Profile
    directory: str
    prompt: str
    created_at: datetime
    expires_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    elapsed_s: float = 0
    rule: str | None = None
    reason: str = ""
    code: str = ""
    advice: str = ""
    summary: str = ""
    exit_code: int | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    model_turns: int | None = None
    limits: LimitsView = LimitsView()
    profile_enforced: str = ""
    credential: str = ""
    containment: str = ""
    processes_left: int | None = None
    cancel_requested: bool = False
    receipt: Literal["none", "pending", "complete", "forgotten"] = "none"
    forgotten: bool = False
    duplicate_of: str | None = None
    prompt_redacted: int = 0
    redacted: int = 0
    thread: str = ""
    turn: int = 1
    follows: str | None = None
    follow_up: str = ""
    follow_up_until: datetime | None = None
    followed_by: str | None = None
    question: str = ""
    events: list[EventView] = Field(default_factory=list[EventView])
    last_event: int = 0
    events_cut: bool = False
    retry_after_s: int | None = None
    will_run: WillRunView | None = None
    patch: PatchView | None = None
    chosen: str = ""
    group: str = ""
    artifacts: list[ArtifactView] = Field(default_factory=list[ArtifactView])
    artifacts_left_out: int = 0
    artifacts_reason: str = ""
    accept: list[str] = Field(default_factory=list[str])
    verdict: str = ""
    evidence: EvidenceView | None = None
    answer_asked: bool = False
    answer: dict[str, Any] | None = None


class TasksView(View):
    """A page of tasks, newest first; `more` says that older ones exist."""

    tasks: list[TaskView]
    more: bool = False


class RefusedView(View):
    """A peer of a group that has no task: refused before it was asked, or out of reach."""

    peer: str
    code: str
    reason: str = ""
    hint: str = ""


class GroupView(View):
    """The tasks that one call asked of several peers, in the order asked.

    `asked` counts peers, `ended` and `succeeded` tasks; `done`: all have ended. A task with
    `duplicate_of` belongs to an earlier call and stands for an equal one. `repeated`: this call
    was made before, and started no group. `chosen`: how the peers were chosen by `where`.
    """

    group: str
    asked: int
    ended: int = 0
    succeeded: int = 0
    done: bool = False
    tasks: list[TaskView] = Field(default_factory=list[TaskView])
    refused: list[RefusedView] = Field(default_factory=list[RefusedView])
    chosen: str = ""
    repeated: bool = False
    prompt_redacted: int = 0


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
    redacted: int = 0
    self_attested: bool = True
    follow_up: str = ""
    follow_up_until: datetime | None = None
    followed_by: str | None = None
    patch: PatchView | None = None
    verdict: str = ""
    answered: bool = False


class RunnerFactView(View):
    """A runner as its machine tells of it; `ready` = it can start."""

    name: str
    version: str = ""
    ready: bool = False


class MachineView(View):
    """What a machine tells of itself; of a peer its own word, scrubbed.

    None and empty texts: not told. `memory` is in bytes; `tools` are versions by name, an empty
    one not known; `gpu_by` is how graphics processors are known, of which `/dev/dri` says that
    there is one and not that it can compute. `known_s`: seconds since it was so; `stale`: that
    is longer than a linked peer leaves it.
    """

    os: str = ""
    distribution: str = ""
    os_version: str = ""
    arch: str = ""
    cpus: int | None = None
    memory: int | None = None
    tools: dict[str, str] | None = None
    gpus: list[str] | None = None
    gpu_by: str = ""
    runners: list[RunnerFactView] | None = None
    labels: list[str] | None = None
    known_s: float = 0
    stale: bool = False


class KeepsView(View):
    """How long a node says it keeps what it is given, in days after a task's end; None = for ever.

    `prompts`: `digest` = a prompt is kept only until its task ends.
    """

    text_days: int | None = None
    output_days: int | None = None
    prompts: Literal["text", "digest"] = "text"


class PeerView(View):
    """A node of the tailnet, and what is known of cmesh on it.

    `machine`: what it has told of itself, also before it went away; None = nothing. `trusted_by`:
    who has said that its pinned key is the right one: `delegate` = nobody, it was pinned when it
    was first asked for something; `owner` = this machine's owner, by its fingerprint; `pair` =
    persons at both machines, by a code. `keeps`: None = it has not said.
    """

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
    trusted_by: str = ""
    fingerprint: str = ""
    version: str = ""
    may_ask: list[str] = Field(
        default_factory=list[str], description="profiles I may ask for there"
    )
    runners: list[str] = Field(default_factory=list[str])
    paths: list[str] = Field(default_factory=list[str])
    operations: list[str] = Field(default_factory=list[str])
    last_contact_s: float | None = None
    machine: MachineView | None = None
    keeps: KeepsView | None = None


class PeersView(View):
    """All peers; the embedded node itself is not one."""

    peers: list[PeerView]


class UntrustView(View):
    """A peer whose key is not trusted any more; `ended` = its tasks that end here for it."""

    name: str
    node_id: str
    fingerprint: str
    ended: list[str] = Field(default_factory=list[str])


class Problem(View):
    """Something that keeps this node from its work, and the next step."""

    code: str
    what: str
    next: str


class OutboxView(View):
    """Tasks handed out to one peer that it has not taken yet.

    `code`: why there is no link with it, when that is known; `expires_at`: when the first of
    them is given up.
    """

    peer: str
    node_id: str
    tasks: int
    link: Literal["connected", "connecting", "down", "none"] = "none"
    code: str = ""
    expires_at: datetime


class StatusView(View):
    """What this daemon is and does.

    `phase`: `setup` = not configured, no node; `login` = waits for `login_url`;
    `up` = on the tailnet; `down` = stopped by `cmesh down`.
    `running`, `waiting`: tasks of others here. `handed_out`: unfinished tasks asked of
    others; `outbox` has those that are not taken yet, by peer.
    `containment`: what holds the processes of the next task here, `pid_namespace` or
    `best_effort`, for which `containment_note` says why it is not more.
    `enforcement`: the sandbox of every profile but `full`; for less than tier 3
    `enforcement_note` says why it is not more. `self_tests`: of runners that are used here,
    those whose self-test has not passed, and how each stands. `manifests`: the owner's own files,
    each in one line. `runners` are those that can start, `runners_down` the others, each with
    why; all are in `runners` until the machine was asked.
    `machine`: what peers that may ask for tasks are told of this one; None = not looked at yet.
    `keeps`: how long tasks' texts and files are kept here; None = by a daemon that is older.
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
    handed_out: int = 0
    outbox: list[OutboxView] = Field(default_factory=list[OutboxView])
    worker: bool = False
    profiles: list[str] = Field(default_factory=list[str])
    runners: list[str] = Field(default_factory=list[str])
    runners_down: dict[str, str] = Field(default_factory=dict[str, str])
    machine: MachineView | None = None
    containment: str = ""
    containment_note: str = ""
    enforcement: str = ""
    enforcement_note: str = ""
    self_tests: list[str] = Field(default_factory=list[str])
    manifests: list[str] = Field(default_factory=list[str])
    state_dir: str = ""
    config_file: str = ""
    pid: int = 0
    uptime_s: float = 0
    store_seq: int = 0
    keeps: KeepsView | None = None
    problems: list[Problem] = Field(default_factory=list[Problem])


class CopyView(View):
    """A whole copy of the store's database, for a new version to try itself on.

    It is the asker's to remove; the daemon removes it when it starts again. `agents`: some
    have spoken MCP to this daemon, and will to the next.
    """

    directory: str
    version: str
    pid: int
    agents: bool = False


class SqlView(View):
    """Rows of a query as JSON values, with what was cut.

    Attributes:
        cut_by: the limit that cut them, `rows` or `bytes`; empty = these are all.
        head_seq: the last row of the log that the answer covers.
        held_by: the sandbox around the query; `none` = limits of the operating system alone.
        nodes: of a fleet query, how each node answered; the first column is then `node`.
    """

    columns: list[str]
    types: list[str]
    rows: list[list[object]]
    truncated: bool = False
    cut_by: str = ""
    elapsed_ms: float = 0
    head_seq: int = 0
    held_by: str = ""
    nodes: list[SqlNodeView] = Field(default_factory=list[SqlNodeView])

    @classmethod
    def of(cls, rows: "SqlRows") -> "SqlView":
        """Return what a store answered, as it is told."""
        return cls(
            columns=list(rows.columns),
            types=list(rows.types),
            rows=rows.rows,
            truncated=rows.truncated,
            cut_by=rows.cut_by,
            elapsed_ms=rows.elapsed_ms,
            head_seq=rows.head_seq,
            held_by=rows.held_by,
        )
