"""The smallest change that would allow what was denied: a sentence, then lines of TOML.

Shown to this node's owner only. The lines are whole keys to paste over those of
the named rule, or a whole new rule.
"""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cmesh.model import Identity, Operation, Profile
from cmesh.policy.chain import callers
from cmesh.policy.conditions import PEER_CONDITIONS
from cmesh.policy.match import normal_path
from cmesh.policy.request import Failed, InboundRequest, OutboundRequest
from cmesh.policy.rules import (
    FULL_CONSENT,
    RUN_OPERATIONS,
    START_OPERATIONS,
    InboundRule,
    OutboundRule,
    RuleLimits,
    Selector,
)
from cmesh.text import one_line, scrub

__all__ = ["PolicyView", "smallest_change_inbound", "smallest_change_outbound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """What stands in the way besides the allow rules' own conditions.

    Attributes:
        names: names of all rules of the direction, taken for new ones.
        denying: names of the deny rules that hold.
        allowed: an allow rule holds, so only the deny rules are in the way.
    """

    names: frozenset[str]
    denying: Sequence[str]
    allowed: bool


def smallest_change_inbound(
    request: InboundRequest,
    ranked: Sequence[tuple[InboundRule, tuple[Failed, ...]]],
    view: PolicyView,
) -> str:
    """Return the change for an inbound request; `ranked` are the allow rules, nearest first."""
    mistake = _mistake(request)
    if mistake:
        return mistake
    change = ""
    if not view.allowed:
        rule, failed = ranked[0] if ranked else (None, ())
        if rule is not None and _extends(request, rule, failed):
            waits = {item.condition for item in failed} <= _WAITS
            lines = [_inbound_line(request, rule, key) for key in _keys(failed)]
            change = _edit("inbound", rule.name, lines)
            change = f"wait for a task of this peer to end, or {change}" if waits else change
        else:
            change = _add(_new_inbound(request, view.names))
    return _after_denies("inbound", view, change)


def smallest_change_outbound(
    request: OutboundRequest,
    ranked: Sequence[tuple[OutboundRule, tuple[Failed, ...]]],
    view: PolicyView,
) -> str:
    """Return the change for an outbound request; `ranked` are the allow rules, nearest first."""
    change = ""
    if not view.allowed:
        rule, failed = ranked[0] if ranked else (None, ())
        kinds = {item.condition for item in failed}
        no_repo = "repo" in kinds and normal_path(request.project) is None
        if rule is not None and not no_repo and (len(kinds) == 1 or not kinds & PEER_CONDITIONS):
            lines = [_outbound_line(request, rule, key) for key in _keys(failed)]
            change = _edit("outbound", rule.name, lines)
        else:
            change = _add(_new_outbound(request, view.names))
    return _after_denies("outbound", view, change)


def _mistake(request: InboundRequest) -> str:
    """Return what the asker has to change because no rule could allow it as it is."""
    if request.operation not in RUN_OPERATIONS:
        return ""
    if request.profile is None or not request.runner:
        return "name a profile and a runner"
    if normal_path(request.directory) is None:
        return "name an absolute directory without `..`"
    if request.operation is Operation.ACCEPT and not request.accept:
        return "name an acceptance command"
    starts = request.operation in START_OPERATIONS
    if starts and request.cost_usd is not None and not request.reports_cost:
        return "ask without a cost limit, or for a runner that reports its cost"
    for name, wish in (("turns", request.turns), ("tokens", request.tokens)):
        if starts and wish is not None and name not in request.reports:
            return f"ask without a limit of {name}, or for a runner that tells its {name}"
    return ""


def _extends(request: InboundRequest, rule: InboundRule, failed: tuple[Failed, ...]) -> bool:
    """Say whether changing this rule is the smaller step than a rule of its own."""
    kinds = {item.condition for item in failed}
    if "profile" in kinds and (request.profile is Profile.FULL or Profile.FULL in rule.profiles):
        return False  # `full` stands in a rule by itself
    return kinds <= PEER_CONDITIONS or not kinds & PEER_CONDITIONS


def _keys(failed: Iterable[Failed]) -> list[str]:
    """Return the keys to change, in order, each once."""
    return list(dict.fromkeys(_KEY.get(item.condition, item.condition) for item in failed))


_KEY = {
    "peer": "peers",
    "grant": "peers",
    "operation": "operations",
    "delegate": "operations",
    "profile": "profiles",
    "runner": "runners",
    "path": "paths",
    "repo": "repos",
    "concurrent": "limits",
    "per_day": "limits",
    "cost_usd": "limits",
    "turns": "limits",
    "tokens": "limits",
    "cost_usd_per_day": "limits",
    "tokens_per_day": "limits",
    "runtime_per_day": "limits",
}

_WAITS = {"concurrent", "per_day", "cost_usd_per_day", "tokens_per_day", "runtime_per_day"}


def _inbound_line(request: InboundRequest, rule: InboundRule, key: str) -> str:
    if key == "limits":
        return _limits(request, rule.limits)
    if key == "consent":
        return f"consent = {_quote(FULL_CONSENT)}"
    lists = {
        "peers": _with(map(str, rule.peers), _node(request.identity)),
        "operations": _with(rule.operations, *_operations(request)),
        "profiles": _with(rule.profile_names, request.profile or ""),
        "runners": _with(rule.runners, request.runner),
        "paths": _with(rule.paths, normal_path(request.directory) or ""),
        "accept": _with(map(shlex.join, rule.accept), shlex.join(request.accept)),
    }
    return _list(key, lists[key]) if key in lists else f"{key} = true"


def _outbound_line(request: OutboundRequest, rule: OutboundRule, key: str) -> str:
    if key == "prompt_bytes":
        return f"prompt_bytes = {request.prompt_bytes}"
    lists = {
        "peers": _with(map(str, rule.peers), _node(request.identity)),
        "profiles": _with(rule.profiles, request.profile),
        "runners": _with(rule.runners, request.runner),
        "repos": _with(rule.repos, normal_path(request.project) or ""),
    }
    return _list(key, lists[key]) if key in lists else f"{key} = true"


def _new_inbound(request: InboundRequest, names: frozenset[str]) -> list[str]:
    identity = request.identity
    lines = [
        "[[inbound.allow]]",
        f"name = {_quote(_name(identity, request.operation, names))}",
        _list("peers", [_node(identity)]),
        _list("operations", _operations(request)),
    ]
    if request.operation in RUN_OPERATIONS:
        lines += [
            _list("profiles", [request.profile or ""]),
            _list("runners", [request.runner]),
            _list("paths", [normal_path(request.directory) or ""]),
        ]
    lines += ["take_changes = true"] * request.takes_changes
    if request.accept:
        lines.append(_list("accept", [shlex.join(request.accept)]))
    lines += ["shared = true"] * identity.shared + ["router = true"] * identity.router
    if request.profile is Profile.FULL and request.operation in RUN_OPERATIONS:
        lines.append(f"consent = {_quote(FULL_CONSENT)}")
    return lines


def _new_outbound(request: OutboundRequest, names: frozenset[str]) -> list[str]:
    identity = request.identity
    lines = [
        "[[outbound.allow]]",
        f"name = {_quote(_name(identity, 'ask', names))}",
        _list("peers", [_node(identity)]),
        _list("profiles", [request.profile]),
        _list("runners", [request.runner]),
    ]
    project = normal_path(request.project)
    if project is not None:
        lines.append(_list("repos", [project]))
    return lines + ["send_changes = true"] * request.sends_changes


def _limits(request: InboundRequest, limits: RuleLimits) -> str:
    """Return the rule's limits, raised just enough; one that the runner cannot keep goes."""
    taken = request.used + request.held
    values: Mapping[str, str | int | float | None] = {
        "runtime": None if limits.runtime_s is None else f"{limits.runtime_s}s",
        "concurrent": _at_least(limits.concurrent, request.running + 1),
        "per_day": _at_least(limits.per_day, request.today + 1),
        "cost_usd": limits.cost_usd if request.reports_cost else None,
        "turns": limits.turns if "turns" in request.reports else None,
        "tokens": limits.tokens if "tokens" in request.reports else None,
        "cost_usd_per_day": _day(
            limits.cost_usd_per_day, taken.cost_usd, kept=request.reports_cost
        ),
        "tokens_per_day": _day(
            limits.tokens_per_day, taken.tokens, kept="tokens" in request.reports
        ),
        "runtime_per_day": _seconds(limits.runtime_per_day_s, taken.runtime_s),
        "output_bytes": limits.output_bytes,
    }
    pairs = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "limits = { " + ", ".join(pairs) + " }" if pairs else "limits = {}"


def _day(limit: float | None, taken: float, *, kept: bool) -> int | None:
    if limit is None or not kept:
        return None
    return math.ceil(limit if taken < limit else taken + limit)


def _seconds(limit_s: int | None, taken_s: float) -> str | None:
    if limit_s is None:
        return None
    return f"{limit_s if taken_s < limit_s else math.ceil(taken_s) + limit_s}s"


def _at_least(limit: int | None, needed: int) -> int | None:
    return None if limit is None else max(limit, needed)


def _operations(request: InboundRequest) -> list[str]:
    through = len(callers(request.chain, request.identity.node_id)) > 1
    files = [Operation.ARTIFACT] if request.artifacts else []
    return _with([request.operation], *files, *([Operation.DELEGATE] if through else []))


def _with(values: Iterable[str], *more: str) -> list[str]:
    return list(dict.fromkeys((*values, *more)))


def _node(identity: Identity) -> str:
    return str(Selector(kind="node", value=identity.node_id))


def _name(identity: Identity, verb: str, taken: frozenset[str]) -> str:
    host = one_line(identity.name, 120).partition(".")[0] or identity.node_id
    base = one_line(f"{host}: {verb}", 150)
    free = (base, *(f"{base} {number}" for number in range(2, len(taken) + 3)))
    return next(name for name in free if name not in taken)


def _list(key: str, values: Iterable[str]) -> str:
    return f"{key} = [{', '.join(map(_quote, values))}]"


def _quote(text: str) -> str:
    # JSON's escapes are TOML's; scrubbing takes out DEL, which TOML wants escaped.
    return json.dumps(scrub(text), ensure_ascii=False)


def _edit(direction: str, rule: str, lines: Iterable[str]) -> str:
    return "\n".join((f"in the [[{direction}.allow]] rule {_quote(rule)} set", *lines))


def _add(lines: Iterable[str]) -> str:
    return "\n".join(("add to config.toml", *lines))


def _after_denies(direction: str, view: PolicyView, change: str) -> str:
    if not view.denying:
        return change
    names = ", ".join(map(_quote, view.denying))
    first = f"narrow or remove the [[{direction}.deny]] rule {names}"
    return f"{first}, then {change}" if change else first
