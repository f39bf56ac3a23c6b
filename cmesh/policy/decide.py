"""Who may do what: one pure, total function a direction, and the sum of a peer's rights.

Order of judgement: what no rule can allow (expired key, chain in a circle),
then deny rules, then allow rules, then denial by default. The order of the
rules in the file never matters.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from cmesh.model import Identity, Limits, Operation, Profile
from cmesh.policy.chain import callers, chain_failure, held_failure
from cmesh.policy.change import PolicyView, smallest_change_inbound, smallest_change_outbound
from cmesh.policy.conditions import (
    PEER_CONDITIONS,
    inbound_denies,
    inbound_failures,
    outbound_denies,
    outbound_failures,
)
from cmesh.policy.match import Grant, denies_peer, is_at_or_below, match_peer
from cmesh.policy.request import Allowed, Decision, Failed, InboundRequest, OutboundRequest
from cmesh.policy.rules import FULL_CONSENT, RUN_OPERATIONS, InboundRule, OutboundRule, Policy

__all__ = [
    "DAY_CONDITIONS",
    "Allowed",
    "Decision",
    "Failed",
    "InboundRequest",
    "OutboundRequest",
    "decide_inbound",
    "decide_outbound",
    "may",
    "may_delegate",
]

DAY_CONDITIONS = frozenset({"per_day", "cost_usd_per_day", "tokens_per_day", "runtime_per_day"})
"""Those that a new day mends."""

BUSY_CONDITIONS = frozenset({"concurrent"}) | DAY_CONDITIONS
"""Conditions that time alone may mend; their code is `busy`."""

_WORDS = frozenset({"operation", "profile", "runner"})
"""Conditions on one word of the request, which is then said: who asked typed it."""

_SHOWN_RULES = 3
_Rule = TypeVar("_Rule", InboundRule, OutboundRule)
_Ranked = list[tuple[_Rule, tuple[Failed, ...]]]
_Denying = list[tuple[_Rule, bool]]


def decide_inbound(request: InboundRequest, policy: Policy) -> Decision:
    """Decide whether this node does what a peer asks. Never raises."""
    chain = callers(request.chain, request.identity.node_id)
    fixed = _expired(request.identity) or chain_failure(chain, request.self_id)
    if fixed is not None:
        return _denied_by_nature(fixed)
    allow = [rule for rule in policy.inbound if rule.effect == "allow"]
    ranked = _rank(allow, lambda rule: inbound_failures(request, rule))
    denying = _denying(policy.inbound, lambda rule: inbound_denies(request, rule))
    holding = [rule for rule, failed in ranked if not failed]
    if holding and not denying:
        return _allowed_inbound(request, min(holding, key=lambda rule: _cost(request, rule)))
    view = _view(policy.inbound, denying, allowed=bool(holding))
    change = smallest_change_inbound(request, ranked, view)
    return _denied_by_rule(denying, change) if denying else _denied_by_default(ranked, change)


def decide_outbound(request: OutboundRequest, policy: Policy) -> Decision:
    """Decide whether this node asks a worker for this. Never raises.

    An allowed outbound request has no limits of its own; the worker sets them.
    """
    chain = callers(request.chain, request.self_id)
    fixed = (
        _expired(request.identity)
        or chain_failure(chain, request.identity.node_id)
        or held_failure(request)
    )
    if fixed is not None:
        return _denied_by_nature(fixed)
    allow = [rule for rule in policy.outbound if rule.effect == "allow"]
    ranked = _rank(allow, lambda rule: outbound_failures(request, rule))
    denying = _denying(policy.outbound, lambda rule: outbound_denies(request, rule))
    holding = [rule for rule, failed in ranked if not failed]
    if holding and not denying:
        name = min(rule.name for rule in holding)
        return Decision(effect="allow", rule=name, reason=f"rule `{name}` allows it")
    view = _view(policy.outbound, denying, allowed=bool(holding))
    change = smallest_change_outbound(request, ranked, view)
    return _denied_by_rule(denying, change) if denying else _denied_by_default(ranked, change)


def may(identity: Identity, policy: Policy) -> Allowed:
    """Return what this node tells a peer it may ask for here. Never raises.

    Not a decision: a request within it can still be denied. What a deny rule
    takes away by one condition alone is taken out; a deny rule about the peer
    without further conditions leaves nothing.
    """
    if identity.expired:
        return Allowed()
    parts: list[Allowed] = []
    for rule in policy.inbound:
        if rule.effect == "allow":
            parts.extend(_rights(identity, rule))
    whole = _union(parts)
    for rule in policy.inbound:
        if rule.effect == "deny" and denies_peer(identity, rule.peers) is not False:
            whole = _without(whole, rule)
    return whole if whole.operations else Allowed()


def may_delegate(request: InboundRequest, rule: str | None, policy: Policy) -> bool:
    """Say whether a task that `rule` admits may ask for tasks itself. Never raises.

    The rule that admits it must name operation `delegate`, and nothing may deny that now.
    """
    named = any(
        each.name == rule and each.effect == "allow" and Operation.DELEGATE in each.operations
        for each in policy.inbound
    )
    asked = replace(request, operation=Operation.DELEGATE)
    return named and decide_inbound(asked, policy).effect != "deny"


def _rank(
    rules: Iterable[_Rule], failures: Callable[[_Rule], tuple[Failed, ...]]
) -> _Ranked[_Rule]:
    """Pair each allow rule with its failures, the nearest to holding first.

    A rule that only time stands against is nearest; among equals, one that is
    about this peer. Names are unique in a direction, so file order cannot show.
    """

    def distance(pair: tuple[_Rule, tuple[Failed, ...]]) -> tuple[object, ...]:
        rule, failed = pair
        kinds = {item.condition for item in failed}
        waits = kinds <= BUSY_CONDITIONS
        return (not waits, len(failed), bool(kinds & PEER_CONDITIONS), rule.name)

    return sorted(((rule, failures(rule)) for rule in rules), key=distance)


def _denying(rules: Iterable[_Rule], holds: Callable[[_Rule], bool | None]) -> _Denying[_Rule]:
    """Return the deny rules that hold or cannot be evaluated, the former first."""
    found = [
        (rule, answer is True)
        for rule in rules
        if rule.effect == "deny" and (answer := holds(rule)) is not False
    ]
    return sorted(found, key=lambda pair: (not pair[1], pair[0].name))


def _view(rules: tuple[_Rule, ...], denying: _Denying[_Rule], *, allowed: bool) -> PolicyView:
    names = frozenset(rule.name for rule in rules)
    return PolicyView(names=names, denying=[rule.name for rule, _ in denying], allowed=allowed)


def _cost(request: InboundRequest, rule: InboundRule) -> tuple[object, ...]:
    """Order holding rules, the one that gives most first; rules only ever add rights."""
    limits = _narrow(request, rule)
    dollars = math.inf if limits.cost_usd is None else limits.cost_usd
    turns = math.inf if limits.turns is None else limits.turns
    tokens = math.inf if limits.tokens is None else limits.tokens
    return (
        _asks(request, rule),
        request.profile not in rule.profiles,
        -limits.runtime_s,
        -limits.output_bytes,
        -dollars,
        -tokens,
        -turns,
        rule.on_revoke,
        rule.name,
    )


def _asks(request: InboundRequest, rule: InboundRule) -> bool:
    # Fetching the output of a run asks nobody again: the run was approved.
    return rule.approval == "ask" and request.operation is not Operation.ARTIFACT


def _allowed_inbound(request: InboundRequest, rule: InboundRule) -> Decision:
    asks = _asks(request, rule)
    does = "asks this node's owner first" if asks else "allows it"
    return Decision(
        effect="ask" if asks else "allow",
        rule=rule.name,
        limits=_narrow(request, rule),
        profile=rule.profile(request.profile) if request.operation in RUN_OPERATIONS else None,
        bind_ignored=rule.bind_ignored,
        on_revoke=rule.on_revoke,
        reason=f"rule `{rule.name}` {does}",
    )


def _narrow(request: InboundRequest, rule: InboundRule) -> Limits:
    limits = rule.limits
    runtime_s, output_bytes = request.runtime_s, request.output_bytes
    if limits.runtime_s is not None:
        runtime_s = min(runtime_s, limits.runtime_s)
    if limits.output_bytes is not None:
        output_bytes = min(output_bytes, limits.output_bytes)
    # A wish that is not a number, or below zero, is no reason to drop the rule's limit.
    taken = request.used + request.held
    dollars, tokens = limits.cost_usd_per_day, limits.tokens_per_day
    dollars_left = None if dollars is None else dollars - taken.cost_usd
    tokens_left = None if tokens is None else tokens - taken.tokens
    if limits.runtime_per_day_s is not None:
        runtime_s = min(runtime_s, limits.runtime_per_day_s - math.ceil(taken.runtime_s))
    amounts = (request.cost_usd, limits.cost_usd, dollars_left)
    wishes = [usd for usd in amounts if usd is not None and usd >= 0]
    return Limits(
        runtime_s=runtime_s,
        output_bytes=output_bytes,
        cost_usd=min(wishes, default=None),
        turns=_least(request.turns, limits.turns),
        tokens=_least(request.tokens, limits.tokens, tokens_left),
    )


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _expired(identity: Identity) -> Failed | None:
    if not identity.expired:
        return None
    wanted = "a valid node key"
    return Failed(rule="", condition="key", wanted=wanted, got="the node key has expired")


def _denied_by_nature(failed: Failed) -> Decision:
    if failed.condition == "key":
        return Decision(
            effect="deny",
            failed=(failed,),
            change="run `cmesh login` on the machine whose key expired",
            code="key_expired",
            reason="the peer's node key has expired",
        )
    chain = failed.condition == "chain"
    who = "the chain of callers is refused" if chain else "a task hands on only what it has"
    how = "delegate from a node that is nearer to the worker" if chain else "ask for less"
    return Decision(
        effect="deny",
        failed=(failed,),
        change=f"no rule can allow this: {how}",
        code="policy_denied",
        reason=f"{who}: {failed.got}, wanted {failed.wanted}",
    )


def _denied_by_rule(denying: _Denying[_Rule], change: str) -> Decision:
    rule, certain = denying[0]
    reason = f"rule `{rule.name}` denies it"
    failed = tuple(
        Failed(rule=other.name, condition="deny", wanted="an answer", got="not enough is known")
        for other, holds in denying
        if not holds
    )
    if not certain:
        reason = f"deny rule `{rule.name}` cannot be evaluated, so it denies"
    return Decision(
        effect="deny",
        rule=rule.name,
        failed=failed,
        change=change,
        code="policy_denied",
        reason=reason,
    )


def _denied_by_default(ranked: _Ranked[_Rule], change: str) -> Decision:
    if not ranked:
        return Decision(
            effect="deny",
            change=change,
            code="policy_denied",
            reason="there is no allow rule in this direction",
        )
    nearest, failed = ranked[0]
    kinds = [item.condition for item in failed]
    said = ", ".join(map(_typed, failed))
    return Decision(
        effect="deny",
        failed=tuple(item for _, items in ranked[:_SHOWN_RULES] for item in items),
        change=change,
        code="busy" if set(kinds) <= BUSY_CONDITIONS else "policy_denied",
        reason=f"no rule allows it; the nearest, `{nearest.name}`, fails on {said}",
    )


def _typed(item: Failed) -> str:
    """Return a condition with the word that was asked for, where that is one."""
    return f"{item.condition} `{item.got}`" if item.condition in _WORDS else item.condition


def _rights(identity: Identity, rule: InboundRule) -> list[Allowed]:
    """Return what one allow rule gives a peer, an element for each way the peer fits it."""
    match = match_peer(identity, rule.peers)
    if (identity.shared and not rule.shared) or (identity.router and not rule.router):
        return []
    consented = rule.consent == FULL_CONSENT
    profiles = tuple(p for p in rule.bases if p is not Profile.FULL or consented)
    whole = Allowed(
        operations=rule.operations,
        profiles=profiles,
        runners=rule.runners,
        paths=rule.paths,
        runtime_s=rule.limits.runtime_s,
    )
    if match.plain:
        return [whole]
    return [_under(grant, whole) for grant in match.grants]


def _under(grant: Grant, whole: Allowed) -> Allowed:
    paths = whole.paths
    if grant.paths is not None:
        below = [path for path in whole.paths if is_at_or_below(path, grant.paths)]
        paths = (*below, *(path for path in grant.paths if is_at_or_below(path, whole.paths)))
    return replace(
        whole,
        operations=tuple(op for op in whole.operations if _in(op, grant.operations)),
        profiles=tuple(profile for profile in whole.profiles if _in(profile, grant.profiles)),
        runners=tuple(runner for runner in whole.runners if _in(runner, grant.runners)),
        paths=paths,
    )


def _in(value: str, listed: tuple[str, ...] | None) -> bool:
    return listed is None or value in listed


def _union(parts: list[Allowed]) -> Allowed:
    times = [part.runtime_s for part in parts]
    return Allowed(
        operations=tuple(sorted({op for part in parts for op in part.operations})),
        profiles=tuple(sorted({profile for part in parts for profile in part.profiles})),
        runners=tuple(sorted({runner for part in parts for runner in part.runners})),
        paths=tuple(sorted({path for part in parts for path in part.paths})),
        runtime_s=None if None in times else max((t for t in times if t is not None), default=None),
    )


def _without(whole: Allowed, rule: InboundRule) -> Allowed:
    conditions = (rule.operations, rule.profiles, rule.runners, rule.paths)
    given = sum(map(bool, conditions))
    if given == 0:
        return Allowed()
    if given > 1:
        return whole
    return replace(
        whole,
        operations=tuple(op for op in whole.operations if op not in rule.operations),
        profiles=tuple(profile for profile in whole.profiles if profile not in rule.profiles),
        runners=tuple(runner for runner in whole.runners if runner not in rule.runners),
        paths=tuple(path for path in whole.paths if not is_at_or_below(path, rule.paths)),
    )
