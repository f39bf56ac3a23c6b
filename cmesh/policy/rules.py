"""The rules of `config.toml` as values, and the constants of the policy language.

Nothing here decides; `cmesh.policy.decide` does. Rules come from
`cmesh.policy.parse`, which is where their form is checked.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from typing_extensions import override

from cmesh.model import Operation, Profile
from cmesh.policy.profiles import BUILT_IN, NamedProfile

__all__ = [
    "AGENTS",
    "CAPABILITY_PREFIX",
    "FULL_CONSENT",
    "RUN_OPERATIONS",
    "START_OPERATIONS",
    "TAGGED_DEVICES",
    "InboundRule",
    "OutboundRule",
    "Policy",
    "RuleLimits",
    "Selector",
]

FULL_CONSENT = (
    "I understand that a task with profile full can do everything I can do on this machine"
)
"""What a rule that grants profile `full` must carry as `consent`, letter for letter."""

CAPABILITY_PREFIX = "cmesh.dev/cap/"
"""`grant:NAME` means the app capability `cmesh.dev/cap/NAME` of the tailnet's policy."""

TAGGED_DEVICES = "tagged-devices"
"""The login name Tailscale gives for every tagged node; it is nobody's."""

AGENTS = ("claude", "codex", "gemini", "opencode")
"""Runners that come with cmesh; others are `command:NAME`, or have a manifest of the owner's."""

START_OPERATIONS = frozenset(
    {Operation.TASK, Operation.FOLLOW_UP, Operation.ACCEPT, Operation.DELEGATE}
)
"""Operations that start a process; counts, cost and chains are checked for these."""

RUN_OPERATIONS = START_OPERATIONS | {Operation.ARTIFACT}
"""Operations about a run, which has a profile, a runner and a directory; SQL has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Names peers, one kind at a time: a tag is never a user, a user never a node.

    Attributes:
        value: without the kind's prefix; empty for `any`.
    """

    kind: Literal["any", "node", "user", "tag", "grant"]
    value: str

    @override
    def __str__(self) -> str:
        return "*" if self.kind == "any" else f"{self.kind}:{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleLimits:
    """What one peer may use under a rule. None = no limit of this kind.

    Attributes:
        runtime_s: longest run; a longer wish is narrowed to it.
        concurrent: tasks of the peer that may run or wait at the same time.
        per_day: tasks of the peer accepted in a day.
        cost_usd: most US dollars a task may cost; needs a runner that reports cost.
        turns, tokens: most answers of the model, and tokens read and written, of a task; need a
            runner that tells them while it runs.
        output_bytes: most output kept; a larger wish is narrowed to it.
        cost_usd_per_day, tokens_per_day, runtime_per_day_s: most that all tasks of the peer may
            use in a UTC day; a task gets no more than is left.
    """

    runtime_s: int | None = None
    concurrent: int | None = None
    per_day: int | None = None
    cost_usd: float | None = None
    turns: int | None = None
    tokens: int | None = None
    output_bytes: int | None = None
    cost_usd_per_day: float | None = None
    tokens_per_day: int | None = None
    runtime_per_day_s: int | None = None

    @property
    def by_day(self) -> bool:
        """Whether what a peer has used today counts."""
        days = (self.cost_usd_per_day, self.tokens_per_day, self.runtime_per_day_s)
        return any(limit is not None for limit in days)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRule:
    """What peers may ask of this node.

    An empty tuple grants nothing in an `allow` rule and means "whatever it is"
    in a `deny` rule; `peers` is never empty. A deny rule uses only `peers`,
    `operations`, `profiles`, `runners` and `paths`.

    Attributes:
        profiles: built-in ones, whole.
        narrowed: the owner's own; no two profiles of a rule have the same base.
        paths: absolute, normalised, with links resolved; a run may start in or below one.
        accept: acceptance commands that may be asked for, exact argv each.
        bind_ignored: folders of a task's directory, relative to it, that git ignores; a task of
            `edit` or `build` may read them beside its copy.
        take_changes: uncommitted changes of the caller may come with a task.
        approval: `ask` lets the request wait for this node's owner.
        on_revoke: what becomes of a running task whose caller loses this right.
        router: the rule also matches nodes that advertise routes, by node id.
        shared: the rule also matches nodes of other tailnets, by node id.
        consent: `FULL_CONSENT` when the rule grants profile `full`.
    """

    name: str
    effect: Literal["allow", "deny"]
    peers: tuple[Selector, ...]
    operations: tuple[Operation, ...] = ()
    profiles: tuple[Profile, ...] = ()
    narrowed: tuple[NamedProfile, ...] = ()
    runners: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    accept: tuple[tuple[str, ...], ...] = ()
    bind_ignored: tuple[str, ...] = ()
    take_changes: bool = False
    approval: Literal["never", "ask"] = "never"
    on_revoke: Literal["end", "stay"] = "end"
    router: bool = False
    shared: bool = False
    limits: RuleLimits = field(default_factory=RuleLimits)
    consent: str = ""

    @property
    def bases(self) -> tuple[Profile, ...]:
        """The words by which a caller may ask for the rule's profiles."""
        return (*self.profiles, *(profile.base for profile in self.narrowed))

    @property
    def profile_names(self) -> tuple[str, ...]:
        """The rule's profiles as the owner names them."""
        return (*self.profiles, *(profile.name for profile in self.narrowed))

    def profile(self, asked: Profile | None) -> NamedProfile | None:
        """Return what a run asked for by this word would run under; None = not by this rule."""
        if asked is not None and asked in self.profiles:
            return BUILT_IN[asked]
        return next((profile for profile in self.narrowed if profile.base is asked), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRule:
    """What this node may ask of workers.

    Empty `runners` and `repos` mean any, in both effects; empty `profiles`
    grants nothing in an `allow` rule and means any in a `deny` rule.

    Attributes:
        repos: absolute local directories; the asking project is one of them or below one.
        send_changes: uncommitted changes of the project may be sent.
        prompt_bytes: the longest prompt in UTF-8 bytes; None = no limit.
    """

    name: str
    effect: Literal["allow", "deny"]
    peers: tuple[Selector, ...]
    profiles: tuple[Profile, ...] = ()
    runners: tuple[str, ...] = ()
    repos: tuple[str, ...] = ()
    send_changes: bool = False
    prompt_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All rules of both directions. Without rules nothing is allowed.

    Attributes:
        sha256: hex digest of the rules' content; their order and layout do not change it.
    """

    inbound: tuple[InboundRule, ...]
    outbound: tuple[OutboundRule, ...]
    sha256: str

    @classmethod
    def of(
        cls, inbound: tuple[InboundRule, ...] = (), outbound: tuple[OutboundRule, ...] = ()
    ) -> Self:
        """Return a policy of these rules with its digest."""
        content = {"inbound": _canonical(inbound), "outbound": _canonical(outbound)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(inbound=inbound, outbound=outbound, sha256=digest)


_LATER_LIMITS = {
    "turns",
    "tokens",
    "cost_usd_per_day",
    "tokens_per_day",
    "runtime_per_day_s",
}


def _canonical(rules: tuple[InboundRule, ...] | tuple[OutboundRule, ...]) -> list[str]:
    return sorted(json.dumps(_fields(rule), sort_keys=True) for rule in rules)


def _fields(rule: InboundRule | OutboundRule) -> dict[str, Any]:
    """Return what the digest is made of; without what came later as it always was."""
    fields = asdict(rule)
    if "limits" in fields:
        limits = fields["limits"]
        fields["limits"] = {
            name: value
            for name, value in limits.items()
            if value is not None or name not in _LATER_LIMITS
        }
    for later in ("narrowed", "bind_ignored", "take_changes"):
        if not fields.get(later):
            fields.pop(later, None)
    return fields
