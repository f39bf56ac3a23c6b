"""What is asked of the policy, and what it answers: values only."""

from dataclasses import dataclass, field
from typing import Literal

from cmesh.model import DayUse, Identity, Limits, NodeId, Operation, Profile
from cmesh.policy.profiles import NamedProfile

__all__ = ["Allowed", "Decision", "Failed", "Held", "InboundRequest", "OutboundRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRequest:
    """What a peer asks of this node, as far as the policy looks at it.

    To ask whether a task that already runs may go on, pass 0 for `running` and
    `today`: it must not count against itself. `ask` then still means allowed.

    Attributes:
        identity: the direct caller, fresh from whois.
        profile: None for operations that are not about a run (SQL).
        runner: empty likewise.
        directory: absolute path with every link resolved by the asker of this
            question; empty likewise.
        accept: argv of the acceptance command; empty = none.
        runtime_s: seconds the caller would like to have.
        output_bytes: bytes of output the caller would like kept.
        cost_usd: the caller's own cost limit; None = none.
        turns, tokens: likewise, of the model's answers, and of what it reads and writes.
        running: tasks of this peer that run or wait now, without this one.
        today: tasks of this peer accepted in the last day, without this one.
        reports_cost: the runner reports what a run costs.
        used, held: what the peer's tasks that ended today have used, and what its unfinished ones
            may use yet.
        reports: what else it tells while it runs: `turns`, `tokens`.
        chain: node ids that led here, first caller first; the direct caller may be
            its last element.
        self_id: this node.
        artifacts: it also asks for files, which takes that operation as well.
        takes_changes: uncommitted changes of the caller come along.
    """

    identity: Identity
    operation: Operation
    profile: Profile | None
    runner: str
    directory: str
    accept: tuple[str, ...]
    runtime_s: int
    output_bytes: int
    cost_usd: float | None
    running: int
    today: int
    reports_cost: bool
    chain: tuple[NodeId, ...]
    self_id: NodeId
    takes_changes: bool = False
    turns: int | None = None
    tokens: int | None = None
    reports: frozenset[str] = frozenset()
    artifacts: bool = False
    used: DayUse = field(default_factory=DayUse)
    held: DayUse = field(default_factory=DayUse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A task that runs on this node and asks for another one, and what it may hand on.

    Attributes:
        may_delegate: the rules here grant its caller operation `delegate` for it.
        profile, runners, directory: what it was admitted with; the runners are those its
            caller may ask for.
        limits: what is left of its own.
    """

    may_delegate: bool
    profile: Profile
    runners: tuple[str, ...]
    directory: str
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """What someone on this machine asks to send to a worker.

    Attributes:
        identity: the worker, from the netmap.
        project: absolute local directory the request comes from; empty = unknown.
        prompt_bytes: length of the prompt in UTF-8.
        sends_changes: uncommitted changes of the project go along.
        chain: node ids that led to this node, first caller first; this node may be
            its last element.
        self_id: this node.
        held: the task that asks; None = a person or an agent of this machine does.
    """

    identity: Identity
    profile: Profile
    runner: str
    project: str
    prompt_bytes: int
    sends_changes: bool
    chain: tuple[NodeId, ...]
    self_id: NodeId
    held: Held | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One condition that did not hold.

    Attributes:
        rule: the rule it belongs to; empty = it holds for all rules.
        condition: `peer`, `router`, `shared`, `operation`, `profile`, `consent`, `runner`,
            `path`, `accept`, `grant`, `delegate`, `concurrent`, `per_day`, `cost_usd`, `turns`,
            `tokens`, `cost_usd_per_day`, `tokens_per_day`, `runtime_per_day`, `repo`, `send_changes`, `take_changes`, `prompt_bytes`; without a rule `key`, `chain`, `held`; of a deny
            rule that could not be evaluated `deny`.
        wanted: what would have held, for people.
        got: what the request has instead; may hold remote text, scrubbed.
    """

    rule: str
    condition: str
    wanted: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to a request, with its reasons.

    Attributes:
        rule: the rule that allowed or denied; None = no rule did.
        failed: for a denial by default, the nearest rules' conditions, nearest rule first.
        change: the smallest change that would allow it: a sentence, then lines of TOML.
        limits: what the task may use, already narrowed; None when denied and outbound.
        profile: what it runs under, the asked one or the owner's narrower one; None when
            denied, outbound, or not about a run.
        bind_ignored: folders that git ignores and that it may read beside its copy.
        on_revoke: what becomes of the task when the right is lost while it runs.
        code: empty when allowed or asked; else `policy_denied`, `key_expired` or `busy`.
        reason: one sentence for people.
    """

    effect: Literal["allow", "ask", "deny"]
    rule: str | None = None
    failed: tuple[Failed, ...] = ()
    change: str = ""
    limits: Limits | None = None
    profile: NamedProfile | None = None
    bind_ignored: tuple[str, ...] = ()
    on_revoke: Literal["end", "stay"] = "end"
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a peer may ask for: the union of the inbound rules that match it.

    A sum of rules, so not each combination of its values is allowed; only a
    decision says that.

    Attributes:
        runtime_s: the longest run of any of the rules; None = no limit, or nothing allowed.
    """

    operations: tuple[Operation, ...] = ()
    profiles: tuple[Profile, ...] = ()
    runners: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    runtime_s: int | None = None
