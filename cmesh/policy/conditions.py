"""Why a rule does not hold for a request: every condition, each checked by itself.

`allow` rules are read narrowly and `deny` rules widely; what cannot be known
counts against the request in both. Nothing here picks a rule.
"""

import math
import shlex
from collections.abc import Iterable

from cmesh.model import Identity, Operation, Profile
from cmesh.policy.chain import callers
from cmesh.policy.match import denies_peer, is_at_or_below, match_peer, overlaps
from cmesh.policy.request import Failed, InboundRequest, OutboundRequest
from cmesh.policy.rules import (
    FULL_CONSENT,
    RUN_OPERATIONS,
    START_OPERATIONS,
    InboundRule,
    OutboundRule,
)
from cmesh.text import one_line

__all__ = [
    "PEER_CONDITIONS",
    "inbound_denies",
    "inbound_failures",
    "outbound_denies",
    "outbound_failures",
]

PEER_CONDITIONS = frozenset({"peer", "router", "shared"})
"""Conditions that say the rule is about other peers."""

_SHOWN = 300


def inbound_failures(request: InboundRequest, rule: InboundRule) -> tuple[Failed, ...]:
    """Return every condition of an inbound allow rule that the request does not meet."""
    return (
        *_inbound_peer(request, rule),
        *_operation(request, rule),
        *_run(request, rule),
        *_usage(request, rule),
    )


def outbound_failures(request: OutboundRequest, rule: OutboundRule) -> tuple[Failed, ...]:
    """Return every condition of an outbound allow rule that the request does not meet."""
    failed: list[Failed] = []
    if not match_peer(request.identity, rule.peers).plain:
        failed.append(_peer(rule.name, request.identity, rule.peers))
    if request.profile not in rule.profiles:
        failed.append(_failed(rule.name, "profile", rule.profiles, request.profile))
    if rule.runners and request.runner not in rule.runners:
        failed.append(_failed(rule.name, "runner", rule.runners, request.runner))
    if rule.repos and not is_at_or_below(request.project, rule.repos):
        failed.append(_failed(rule.name, "repo", rule.repos, request.project))
    if request.sends_changes and not rule.send_changes:
        failed.append(_failed(rule.name, "send_changes", ("no changes",), "changes"))
    if rule.prompt_bytes is not None and request.prompt_bytes > rule.prompt_bytes:
        wanted = (f"at most {rule.prompt_bytes} bytes",)
        failed.append(_failed(rule.name, "prompt_bytes", wanted, f"{request.prompt_bytes} bytes"))
    return tuple(failed)


def inbound_denies(request: InboundRequest, rule: InboundRule) -> bool | None:
    """Say whether an inbound deny rule holds; None = it cannot be evaluated.

    A rule that names profiles, runners or paths is about runs, so SQL is not its concern.
    """
    about_runs = bool(rule.profiles or rule.runners or rule.paths)
    if about_runs and request.operation not in RUN_OPERATIONS:
        return False
    return _every(
        denies_peer(request.identity, rule.peers),
        not rule.operations or request.operation in rule.operations,
        _known(request.profile, rule.profiles),
        _known(request.runner, rule.runners),
        not rule.paths or overlaps(request.directory, rule.paths),
    )


def outbound_denies(request: OutboundRequest, rule: OutboundRule) -> bool | None:
    """Say whether an outbound deny rule holds; None = it cannot be evaluated."""
    return _every(
        denies_peer(request.identity, rule.peers, grants_known=False),
        _known(request.profile, rule.profiles),
        _known(request.runner, rule.runners),
        not rule.repos or overlaps(request.project, rule.repos),
    )


def _inbound_peer(request: InboundRequest, rule: InboundRule) -> list[Failed]:
    identity = request.identity
    match = match_peer(identity, rule.peers)
    failed: list[Failed] = []
    if not match:
        failed.append(_peer(rule.name, identity, rule.peers))
    elif not match.plain and not any(
        grant.covers(request.operation, request.profile, request.runner, request.directory)
        for grant in match.grants
    ):
        wanted = ("a value of the peer's grant that covers this request",)
        failed.append(_failed(rule.name, "grant", wanted, "values that do not"))
    if identity.shared and not rule.shared:
        got = "a node of another tailnet"
        failed.append(_failed(rule.name, "shared", ("a node of this tailnet",), got))
    if identity.router and not rule.router:
        got = "a node that advertises routes"
        failed.append(_failed(rule.name, "router", ("a node without routes",), got))
    return failed


def _operation(request: InboundRequest, rule: InboundRule) -> list[Failed]:
    failed: list[Failed] = []
    if request.operation not in rule.operations:
        failed.append(_failed(rule.name, "operation", rule.operations, request.operation))
    if request.artifacts and Operation.ARTIFACT not in rule.operations:
        failed.append(_failed(rule.name, "operation", rule.operations, Operation.ARTIFACT))
    through = callers(request.chain, request.identity.node_id)[:-1]
    if through and Operation.DELEGATE not in rule.operations:
        wanted = ("operation delegate, or a task that starts at the caller",)
        failed.append(_failed(rule.name, "delegate", wanted, "through " + ", ".join(through)))
    return failed


def _run(request: InboundRequest, rule: InboundRule) -> list[Failed]:
    if request.operation not in RUN_OPERATIONS:
        return []
    failed: list[Failed] = []
    if rule.profile(request.profile) is None:
        failed.append(_failed(rule.name, "profile", rule.profile_names, request.profile or ""))
    elif request.profile is Profile.FULL and rule.consent != FULL_CONSENT:
        failed.append(_failed(rule.name, "consent", (FULL_CONSENT,), rule.consent))
    if not request.runner or request.runner not in rule.runners:
        failed.append(_failed(rule.name, "runner", rule.runners, request.runner))
    if not is_at_or_below(request.directory, rule.paths):
        failed.append(_failed(rule.name, "path", rule.paths, request.directory))
    if request.takes_changes and not rule.take_changes:
        failed.append(_failed(rule.name, "take_changes", ("no changes of the caller",), "changes"))
    asks = request.accept or request.operation is Operation.ACCEPT
    if asks and request.accept not in rule.accept:
        wanted = tuple(shlex.join(argv) for argv in rule.accept)
        failed.append(_failed(rule.name, "accept", wanted, shlex.join(request.accept)))
    return failed


def _usage(request: InboundRequest, rule: InboundRule) -> list[Failed]:
    if request.operation not in START_OPERATIONS:
        return []
    limits = rule.limits
    failed: list[Failed] = []
    if limits.concurrent is not None and request.running >= limits.concurrent:
        wanted = (f"fewer than {limits.concurrent} at the same time",)
        failed.append(_failed(rule.name, "concurrent", wanted, str(request.running)))
    if limits.per_day is not None and request.today >= limits.per_day:
        wanted = (f"fewer than {limits.per_day} a day",)
        failed.append(_failed(rule.name, "per_day", wanted, str(request.today)))
    failed += _today(request, rule)
    ours = limits.cost_usd is not None or limits.cost_usd_per_day is not None
    limited = ours or request.cost_usd is not None
    if limited and not request.reports_cost:
        got = f"{one_line(request.runner, 80)} does not report it"
        failed.append(_failed(rule.name, "cost_usd", ("a runner that reports its cost",), got))
    for name, most, wish in (
        ("turns", limits.turns, request.turns),
        ("tokens", limits.tokens or limits.tokens_per_day, request.tokens),
    ):
        if (most is not None or wish is not None) and name not in request.reports:
            got = f"{one_line(request.runner, 80)} does not"
            wanted = f"a runner that tells its {name} while it runs"
            failed.append(_failed(rule.name, name, (wanted,), got))
    return failed


def _today(request: InboundRequest, rule: InboundRule) -> list[Failed]:
    """Return the budgets of the day of which nothing is left."""
    limits, taken = rule.limits, request.used + request.held
    budgets = (
        ("cost_usd_per_day", limits.cost_usd_per_day, taken.cost_usd, "USD"),
        ("tokens_per_day", limits.tokens_per_day, taken.tokens, "tokens"),
        ("runtime_per_day", limits.runtime_per_day_s, math.ceil(taken.runtime_s), "s"),
    )
    return [
        _failed(rule.name, name, (f"less than {most:g} {unit} a day",), f"{count:g} {unit}")
        for name, most, count, unit in budgets
        if most is not None and count >= most
    ]


def _peer(rule: str, identity: Identity, peers: Iterable[object]) -> Failed:
    who = identity.user or " ".join(identity.tags) or "no user"
    limited = " (by node id only)" if identity.shared or identity.router else ""
    return _failed(rule, "peer", tuple(map(str, peers)), f"node:{identity.node_id}, {who}{limited}")


def _failed(rule: str, condition: str, wanted: Iterable[str], got: str) -> Failed:
    listed = one_line(" | ".join(wanted) or "nothing", _SHOWN)
    return Failed(
        rule=rule, condition=condition, wanted=listed, got=one_line(got, _SHOWN) or "none"
    )


def _known(value: str | None, listed: tuple[str, ...]) -> bool | None:
    if not listed:
        return True
    return value in listed if value else None


def _every(*answers: bool | None) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True
