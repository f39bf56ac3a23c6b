"""From rule tables to rules: every check that needs more than one value's form.

A mistake is one `PolicyError` that names the key and what was expected there.
Selectors and commands are taken apart here, once, so that deciding is fast.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import ValidationError

from cmesh.model import Profile
from cmesh.nearest import nearest
from cmesh.platform.names import goes_up
from cmesh.policy.match import normal_path
from cmesh.policy.mistakes import Location, PolicyError, describe, problems
from cmesh.policy.narrow import build_profiles, named_profile, relative_paths
from cmesh.policy.profiles import NamedProfile
from cmesh.policy.rules import (
    AGENTS,
    FULL_CONSENT,
    RUN_OPERATIONS,
    TAGGED_DEVICES,
    InboundRule,
    OutboundRule,
    Policy,
    RuleLimits,
    Selector,
)
from cmesh.policy.tables import (
    InboundAllowTable,
    InboundDenyTable,
    LimitsTable,
    OutboundAllowTable,
    OutboundDenyTable,
    PolicyTables,
)
from cmesh.text import one_line

__all__ = [
    "COMMAND_NAME_PATTERN",
    "RUNNER_NAME_PATTERN",
    "RUNNER_NAME_WORDS",
    "RealPath",
    "build_policy",
    "mistaken_for",
    "parse_policy",
    "parse_selector",
]

RealPath = Callable[[str], str]
"""Expands `~` and resolves links of a path in a rule; the reader of the file supplies it."""

COMMAND_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""NAME of `command:NAME` and of `[commands.NAME]`, whole."""

RUNNER_NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,31}"
"""Name of an agent, and of its manifest, whole."""

RUNNER_NAME_WORDS = "lower-case letters, digits, `_` and `-`, at most 32"

_COMMAND = "command"
_TYPO_CUTOFF = 0.8
"""How like a built-in name (difflib) another one must be to be taken for a slip of the pen."""

_SELECTOR_FORM = "`node:ID`, `user:LOGIN`, `tag:NAME`, `grant:NAME` or `*`"
_RUNNER_FORM = (
    f"{', '.join(f'`{name}`' for name in AGENTS)}, the name of a manifest, or `command:NAME`"
)
_VALUE_PATTERNS = {
    "node": (r"[A-Za-z0-9]{1,64}", "a stable node id such as `node:nABC123CNTRL`"),
    "user": (r"[^\s@*][^\s*]*", "a whole login name such as `user:me@example.com`"),
    "tag": (r"[A-Za-z][A-Za-z0-9-]{0,62}", "a tag such as `tag:laptop`"),
    "grant": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "NAME of an app capability cmesh.dev/cap/NAME"),
}


def parse_policy(raw: Mapping[str, object], *, real_path: RealPath = str) -> Policy:
    """Return the policy of the tables `profiles`, `inbound` and `outbound` alone.

    Raises:
        PolicyError: the first mistake found.
    """
    try:
        tables = PolicyTables.model_validate(raw)
    except ValidationError as error:
        problem = problems(error)[0]
        raise PolicyError(problem.where, describe(problem, PolicyTables)) from None
    return build_policy(tables, real_path=real_path)


def build_policy(tables: PolicyTables, *, real_path: RealPath = str) -> Policy:
    """Return the policy of tables whose form is already checked.

    Raises:
        PolicyError: the first mistake found.
    """
    inbound, outbound = tables.inbound, tables.outbound
    own = build_profiles(tables.profiles)
    _require_unique("inbound", inbound.allow, inbound.deny)
    _require_unique("outbound", outbound.allow, outbound.deny)
    return Policy.of(
        (
            *(
                _inbound_allow(table, ("inbound", "allow", index), own, real_path)
                for index, table in enumerate(inbound.allow)
            ),
            *(
                _inbound_deny(table, ("inbound", "deny", index), real_path)
                for index, table in enumerate(inbound.deny)
            ),
        ),
        (
            *(
                _outbound(table, ("outbound", "allow", index), real_path)
                for index, table in enumerate(outbound.allow)
            ),
            *(
                _outbound(table, ("outbound", "deny", index), real_path)
                for index, table in enumerate(outbound.deny)
            ),
        ),
    )


def parse_selector(text: str) -> Selector:
    """Return the selector that `text` spells.

    Raises:
        ValueError: it spells none; the message says what was expected.
    """
    if text == "*":
        return Selector(kind="any", value="")
    prefix, colon, value = text.partition(":")
    kind = _kind(prefix)
    if kind is None or not colon:
        guess = f"; did you mean `user:{one_line(text)}`?" if "@" in text and not colon else ""
        raise ValueError(f"expected {_SELECTOR_FORM}{guess}")
    pattern, form = _VALUE_PATTERNS[kind]
    if not re.fullmatch(pattern, value):
        raise ValueError(f"expected {form}; there are no wildcards")
    if kind == "user" and value == TAGGED_DEVICES:
        raise ValueError("expected a person's login; name tagged nodes by `tag:NAME`")
    return Selector(kind=kind, value=value)


def mistaken_for(name: str) -> str:
    """Return the built-in agent that a name is too like; empty = it is one, or like none.

    INVARIANT: such a name is nobody's. Whether a rule's runner is here is known on its own
    machine only, so a slip in a `deny` would go unseen, and let through what it should not.
    """
    near = difflib.get_close_matches(name, AGENTS, n=1, cutoff=_TYPO_CUTOFF)
    return near[0] if near and name not in AGENTS else ""


def _inbound_allow(
    table: InboundAllowTable,
    where: Location,
    own: Mapping[str, NamedProfile],
    real_path: RealPath,
) -> InboundRule:
    _require_run_keys(table, where)
    _require_full_alone(table, where)
    profiles = _profiles(table.profiles, (*where, "profiles"), own)
    peers = _peers(table.peers, where)
    _require_nodes(table, peers, where)
    return InboundRule(
        name=_name(table.name, where),
        effect="allow",
        peers=peers,
        operations=tuple(table.operations),
        profiles=tuple(one.base for one in profiles if one.name == one.base),
        narrowed=tuple(one for one in profiles if one.name != one.base),
        runners=_runners(table.runners, where),
        paths=_paths(table.paths, (*where, "paths"), real_path),
        accept=tuple(
            _argv(command, (*where, "accept", index)) for index, command in enumerate(table.accept)
        ),
        bind_ignored=relative_paths(table.bind_ignored, (*where, "bind_ignored"), copied=True),
        take_changes=table.take_changes,
        approval=table.approval,
        on_revoke=table.on_revoke,
        router=table.router,
        shared=table.shared,
        limits=_limits(table.limits),
        consent=table.consent,
    )


def _inbound_deny(table: InboundDenyTable, where: Location, real_path: RealPath) -> InboundRule:
    return InboundRule(
        name=_name(table.name, where),
        effect="deny",
        peers=_peers(table.peers, where),
        operations=tuple(table.operations or ()),
        profiles=tuple(table.profiles or ()),
        runners=_runners(table.runners or (), where),
        paths=_paths(table.paths or (), (*where, "paths"), real_path),
    )


def _outbound(
    table: OutboundAllowTable | OutboundDenyTable, where: Location, real_path: RealPath
) -> OutboundRule:
    peers = _peers(table.peers, where)
    for index, peer in enumerate(peers):
        if peer.kind == "grant":
            expected = "expected `node:`, `user:`, `tag:` or `*`; a grant is about inbound requests"
            raise PolicyError((*where, "peers", index), expected)
    allow = isinstance(table, OutboundAllowTable)
    return OutboundRule(
        name=_name(table.name, where),
        effect="allow" if allow else "deny",
        peers=peers,
        profiles=tuple(table.profiles or ()),
        runners=_runners(table.runners or (), where),
        repos=_paths(table.repos or (), (*where, "repos"), real_path),
        send_changes=allow and table.send_changes,
        prompt_bytes=table.prompt_bytes if allow else None,
    )


def _require_unique(
    direction: str,
    allow: Sequence[InboundAllowTable] | Sequence[OutboundAllowTable],
    deny: Sequence[InboundDenyTable] | Sequence[OutboundDenyTable],
) -> None:
    seen: set[str] = set()
    for effect, tables in (("allow", allow), ("deny", deny)):
        for index, table in enumerate(tables):
            if table.name in seen:
                where = (direction, effect, index, "name")
                raise PolicyError(where, "expected a name that no other rule here has")
            seen.add(table.name)


def _require_run_keys(table: InboundAllowTable, where: Location) -> None:
    about_runs = [operation for operation in table.operations if operation in RUN_OPERATIONS]
    if not about_runs:
        return
    for key in ("profiles", "runners", "paths"):
        if not getattr(table, key):
            expected = f"expected at least one; operation `{about_runs[0]}` needs it"
            raise PolicyError((*where, key), expected)


def _require_full_alone(table: InboundAllowTable, where: Location) -> None:
    full = Profile.FULL.value in table.profiles
    if full and set(table.profiles) != {Profile.FULL.value}:
        expected = "expected `full` alone; give it a rule of its own"
        raise PolicyError((*where, "profiles"), expected)
    if full and table.consent != FULL_CONSENT:
        expected = f'profile `full` has no sandbox; expected consent = "{FULL_CONSENT}"'
        raise PolicyError((*where, "consent"), expected)
    if table.consent and not full:
        raise PolicyError((*where, "consent"), "expected only in a rule with profile `full`")


def _require_nodes(table: InboundAllowTable, peers: tuple[Selector, ...], where: Location) -> None:
    named = any(peer.kind == "node" for peer in peers)
    for key, wanted in (("router", table.router), ("shared", table.shared)):
        if wanted and not named:
            expected = f"`{key}` works for nodes named by `node:ID` only; expected one"
            raise PolicyError((*where, "peers"), expected)


def _name(name: str, where: Location) -> str:
    if one_line(name) != name:
        raise PolicyError((*where, "name"), "expected one line without control characters")
    return name


def _peers(texts: Iterable[str], where: Location) -> tuple[Selector, ...]:
    peers: list[Selector] = []
    for index, text in enumerate(texts):
        try:
            peers.append(parse_selector(text))
        except ValueError as error:
            raise PolicyError((*where, "peers", index), str(error)) from None
    return tuple(peers)


def _profiles(
    names: Iterable[str], where: Location, own: Mapping[str, NamedProfile]
) -> tuple[NamedProfile, ...]:
    """Return the profiles a rule names; of each base one, or a request would mean two."""
    found: dict[Profile, NamedProfile] = {}
    for index, name in enumerate(names):
        profile = named_profile(name, own, (*where, index))
        other = found.setdefault(profile.base, profile)
        if other is not profile:
            expected = f"`{other.name}` is asked for as `{profile.base}` too; give it another rule"
            raise PolicyError((*where, index), expected)
    return tuple(found.values())


def _runners(names: Iterable[str], where: Location) -> tuple[str, ...]:
    listed = tuple(names)
    for index, name in enumerate(listed):
        agent, colon, command = name.partition(":")
        if colon:
            good = agent == _COMMAND and re.fullmatch(COMMAND_NAME_PATTERN, command)
        else:
            good = name != _COMMAND and re.fullmatch(RUNNER_NAME_PATTERN, name)
        if not good or mistaken_for(name):
            near = nearest(name, AGENTS, most=1)
            guess = f"; did you mean `{near[0]}`?" if near else ""
            raise PolicyError((*where, "runners", index), f"expected {_RUNNER_FORM}{guess}")
    return listed


def _paths(texts: Iterable[str], where: Location, real_path: RealPath) -> tuple[str, ...]:
    paths: list[str] = []
    for index, text in enumerate(texts):
        if goes_up(text) or "\0" in text:
            raise PolicyError((*where, index), "expected a path without `..`")
        path = normal_path(real_path(text))
        if path is None:
            raise PolicyError((*where, index), "expected an absolute path")
        paths.append(path)
    return tuple(paths)


def _argv(command: str, where: Location) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(command))
    except ValueError:
        raise PolicyError(where, "expected a command with closed quotes") from None
    if not argv:
        raise PolicyError(where, "expected a command")
    return argv


def _limits(table: LimitsTable) -> RuleLimits:
    return RuleLimits(
        runtime_s=table.runtime,
        concurrent=table.concurrent,
        per_day=table.per_day,
        cost_usd=table.cost_usd,
        turns=table.turns,
        tokens=table.tokens,
        cost_usd_per_day=table.cost_usd_per_day,
        tokens_per_day=table.tokens_per_day,
        runtime_per_day_s=table.runtime_per_day,
        output_bytes=table.output_bytes,
    )


def _kind(prefix: str) -> Literal["node", "user", "tag", "grant"] | None:
    match prefix:
        case "node" | "user" | "tag" | "grant":
            return prefix
        case _:
            return None
