"""A decision in words: for the owner of this node, and as little as the other side may know."""

from dataclasses import asdict, replace

from cmesh.model import Identity
from cmesh.policy.conditions import PEER_CONDITIONS
from cmesh.policy.profiles import BUILT_IN, NamedProfile
from cmesh.policy.request import Decision, Failed, InboundRequest, OutboundRequest
from cmesh.text import one_line

__all__ = ["OTHERS_POLICY", "explain", "for_remote", "narrowing"]

OTHERS_POLICY = "the other node's policy"
"""What a denial begins with where its caller reads it."""

UNTOLD = frozenset({"turns", "tokens", "cost_usd"})
"""Conditions that fail only where a runner does not tell what is limited."""

_TOLD_AS = {"turns": "turns", "tokens": "tokens", "cost_usd": "cost"}
_ASK_WITHOUT = "ask without that limit (`--max-turns`, `--max-tokens`, `--max-cost`), or name a runner that tells it; where the limit is the other owner's rule, only the second helps"

_WORDS = {"allow": "allowed", "ask": "allowed, after approval", "deny": "denied"}


def explain(decision: Decision, request: InboundRequest | OutboundRequest) -> list[str]:
    """Return the lines `cmesh policy explain` prints on this node, for either direction."""
    lines = [_question(request), f"{_WORDS[decision.effect]}: {decision.reason}"]
    if decision.limits is not None:
        lines.append(_limits(decision, request))
    if decision.profile is not None and decision.profile.name != decision.profile.base:
        lines.append(f"profile: {decision.profile.base}, narrowed to {decision.profile.name}")
        lines.extend(f"    {line}" for line in narrowing(decision.profile))
    lines.extend(_condition(item) for item in decision.failed)
    if decision.change:
        lines.append("to allow it:")
        lines.extend(f"    {line}" for line in decision.change.splitlines())
    return lines


def narrowing(profile: NamedProfile) -> list[str]:
    """Return what a profile of the owner takes away from its base, for the owner; one fact each."""
    base, lines = BUILT_IN[profile.base], list[str]()
    if profile.read:
        lines.append(f"sees of the directory: {one_line(', '.join(profile.read))}")
    if profile.write:
        lines.append(f"may write of its copy: {one_line(', '.join(profile.write))}")
    if profile.hosts:
        lines.append(f"may reach: {', '.join(profile.hosts)}")
    if profile.limits is not None and profile.limits != base.limits:
        limits = asdict(profile.limits).items()
        lines.append(f"limits: {', '.join(f'{key} {value}' for key, value in limits)}")
    return lines


def for_remote(decision: Decision) -> Decision:
    """Return what the asking peer may know of a decision about it.

    It learns the effect, the code, and of the nearest rule that is about it the
    kinds of condition that failed. It learns no rule that is about others, no
    value of any rule, no resolved path, no profile of the owner, and not whether a deny rule or the
    absence of a rule stopped it. The name of a rule that allows it is told.
    """
    if decision.effect != "deny":
        return replace(decision, failed=(), change="", profile=None)
    kinds = [] if decision.rule is not None else _kinds_for_remote(decision.failed)
    # The runner's name is what the peer itself asked for, or got because it named none.
    asked = {
        item.condition: f"runner `{item.got}`"
        for item in decision.failed
        if item.condition == "runner"
    }
    about = f" ({', '.join(asked.get(kind, kind) for kind in kinds)})" if kinds else ""
    reason = f"{OTHERS_POLICY} denies it{about}"
    untold = bool(kinds) and set(kinds) <= UNTOLD
    if untold:
        # What a program tells is no secret of its owner's, and who asked can do without the limit.
        what = " and ".join(_TOLD_AS[kind] for kind in dict.fromkeys(kinds))
        reason = f"{reason}: this runner does not tell its {what}, so no limit of that can be held"
    if decision.code == "key_expired":
        reason = "the asking node's key has expired"
    return Decision(
        effect="deny",
        failed=tuple(Failed(rule="", condition=kind, wanted="", got="") for kind in kinds),
        change=_ASK_WITHOUT if untold else _change_for_remote(decision.code),
        code=decision.code,
        reason=reason,
    )


def _kinds_for_remote(failed: tuple[Failed, ...]) -> list[str]:
    by_rule: dict[str, list[str]] = {}
    for item in failed:
        by_rule.setdefault(item.rule, []).append(item.condition)
    for kinds in by_rule.values():
        if not PEER_CONDITIONS.intersection(kinds):
            return kinds
    return []


def _change_for_remote(code: str) -> str:
    if code == "busy":
        return "wait for a running task to end, then retry"
    if code == "key_expired":
        return "run `cmesh login` on the asking machine"
    return "the owner of the other machine sees why with `cmesh policy explain` there"


def _question(request: InboundRequest | OutboundRequest) -> str:
    who = _who(request.identity)
    if isinstance(request, OutboundRequest):
        place = one_line(request.project) or "an unknown project"
        return (
            f"outbound: ask {who} for profile {request.profile}, "
            f"runner {one_line(request.runner)}, from {place}"
        )
    if request.profile is None:
        return f"inbound: {who} asks for {request.operation}"
    return (
        f"inbound: {who} asks for {request.operation}, profile {request.profile}, "
        f"runner {one_line(request.runner)}, in {one_line(request.directory)}"
    )


def _who(identity: Identity) -> str:
    facts = [identity.user or ", ".join(identity.tags) or "no user", f"node:{identity.node_id}"]
    facts += ["expired"] * identity.expired + ["of another tailnet"] * identity.shared
    facts += ["advertises routes"] * identity.router + ["ephemeral"] * identity.ephemeral
    return one_line(f"{identity.name} ({', '.join(facts)})")


def _limits(decision: Decision, request: InboundRequest | OutboundRequest) -> str:
    limits = decision.limits
    if limits is None or isinstance(request, OutboundRequest):
        return ""
    asked = f" (narrowed from {request.runtime_s} s)" * (limits.runtime_s < request.runtime_s)
    more = "" if limits.cost_usd is None else f", {limits.cost_usd:g} USD"
    more += "" if limits.turns is None else f", {limits.turns} turns"
    more += "" if limits.tokens is None else f", {limits.tokens} tokens"
    return f"limits: {limits.runtime_s} s{asked}, {limits.output_bytes} bytes of output{more}"


def _condition(item: Failed) -> str:
    place = f'rule "{item.rule}"' if item.rule else "always"
    return f"{place}: {item.condition}: wanted {item.wanted}, got {item.got}"
