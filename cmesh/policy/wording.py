"""Rules in words: what each allows, of whom, where and how far, as sentences for the owner. Pure.

Everything a rule says is in its sentences; what it does not say is told where its absence means
something, which in an allow rule is "nothing" and in a deny rule "whatever it is".
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cmesh.model import Operation, Profile
from cmesh.policy.explain import narrowing
from cmesh.policy.profiles import NamedProfile
from cmesh.policy.rules import InboundRule, OutboundRule, RuleLimits, Selector
from cmesh.text import one_line

__all__ = ["Sentences", "inbound_words", "outbound_words"]

_KINDS = {
    "any": "any peer",
    "node": "the node {}",
    "user": "devices of {}",
    "tag": "devices tagged {}",
    "grant": "peers that the tailnet's policy grants {}",
}

_OPERATIONS = {
    Operation.TASK: "ask for tasks",
    Operation.FOLLOW_UP: "go on with a conversation",
    Operation.ACCEPT: "name an acceptance command",
    Operation.ARTIFACT: "have files handed over",
    Operation.SQL_OWN: "query the audit rows of its own tasks",
    Operation.SQL_ALL: "query all audit rows",
    Operation.DELEGATE: "let its tasks ask for tasks",
}

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_SIZES = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """A rule in words.

    Attributes:
        says: who may, or may not, do what and where; one sentence.
        more: what comes with it, a sentence each.
    """

    says: str
    more: tuple[str, ...] = ()


def inbound_words(rule: InboundRule) -> Sentences:
    """Return what peers may ask of this node under a rule."""
    if rule.effect == "deny":
        return Sentences(says=_denied_in(rule))
    what = _all([_OPERATIONS[operation] for operation in rule.operations]) or "ask for nothing"
    says = f"{_who(rule.peers)} may {what}"
    if rule.profile_names:
        says += f", with profile {_any(rule.profile_names)}"
    if rule.runners:
        says += f", by {_any(rule.runners)}"
    if rule.paths:
        says += f", in or below {_any(rule.paths)}"
    return Sentences(says=f"{_capital(says)}.", more=tuple(_inbound_more(rule)))


def outbound_words(rule: OutboundRule) -> Sentences:
    """Return what this node may ask of workers under a rule."""
    profiles = f" with profile {_any(rule.profiles)}" if rule.profiles else ""
    runners = f", by {_any(rule.runners)}" if rule.runners else ""
    repos = f", from {_any(rule.repos)} or below" if rule.repos else ", from any directory"
    if rule.effect == "deny":
        says = f"This machine asks {_who(rule.peers)} for no task{profiles}{runners}"
        return Sentences(says=f"{says}{repos if rule.repos else ''}.")
    if not rule.profiles:
        return Sentences(says="It names no profile, so it allows nothing.")
    more = [
        "Uncommitted changes may be sent along."
        if rule.send_changes
        else "Uncommitted changes stay here."
    ]
    if rule.prompt_bytes is not None:
        more.append(f"A prompt has at most {rule.prompt_bytes:,} bytes.")
    says = f"This machine may ask {_who(rule.peers)} for tasks{profiles}{runners}{repos}."
    return Sentences(says=says, more=tuple(more))


def _denied_in(rule: InboundRule) -> str:
    parts = list[str]()
    if rule.operations:
        parts.append(f"to {_any([_OPERATIONS[operation] for operation in rule.operations])}")
    if rule.profiles:
        parts.append(f"with profile {_any(rule.profiles)}")
    if rule.runners:
        parts.append(f"by {_any(rule.runners)}")
    if rule.paths:
        parts.append(f"that reaches into {_any(rule.paths)}")
    about = f" {' '.join(parts)}" if parts else ""
    said = f"every request of {_who(rule.peers)}{about} is refused, whatever else allows it."
    return _capital(said)


def _inbound_more(rule: InboundRule) -> list[str]:
    more = [f"Profile {_narrowed(profile)}." for profile in rule.narrowed]
    if rule.approval == "ask":
        more.append("Each request waits for your yes.")
    if rule.accept:
        commands = _any([shlex.join(argv) for argv in rule.accept])
        more.append(f"Acceptance commands that may be named: {commands}.")
    if rule.take_changes:
        more.append("Uncommitted changes of the caller may come along.")
    if rule.bind_ignored:
        more.append(f"Tasks on a copy may read {_all(rule.bind_ignored)}, which git ignores.")
    if Profile.FULL in rule.profiles:
        more.append("Profile full has no sandbox: such a task can do all that you can do here.")
    if rule.router:
        more.append("It also counts for nodes that advertise routes, where it names their id.")
    if rule.shared:
        more.append("It also counts for nodes of other tailnets, where it names their id.")
    more.extend(_limits(rule.limits))
    if rule.on_revoke == "stay":
        more.append("A task that runs goes on when its caller loses this right.")
    return more


def _narrowed(profile: NamedProfile) -> str:
    facts = "; ".join(narrowing(profile))
    head = f"{profile.name} is {profile.base.value}, narrowed"
    return f"{head}: {facts}" if facts else head


def _limits(limits: RuleLimits) -> list[str]:
    task = [
        _said(limits.runtime_s, "{} of run time", _duration),
        _said(limits.cost_usd, "{} USD", _number),
        _said(limits.turns, "{} turns of the model", _count),
        _said(limits.tokens, "{} tokens", _count),
        _said(limits.output_bytes, "{} of output", _size),
    ]
    peer = [
        _said(limits.concurrent, "{} at a time", _count),
        _said(limits.per_day, "{} tasks a day", _count),
        _said(limits.cost_usd_per_day, "{} USD a day", _number),
        _said(limits.tokens_per_day, "{} tokens a day", _count),
        _said(limits.runtime_per_day_s, "{} of run time a day", _duration),
    ]
    found = list[str]()
    if any(task):
        found.append(f"A task has at most {_all([text for text in task if text])}.")
    if any(peer):
        found.append(f"A peer has at most {_all([text for text in peer if text])}.")
    return found


def _said(value: float | None, form: str, shown: Callable[[float], str]) -> str:
    return "" if value is None else form.format(shown(value))


def _who(peers: Sequence[Selector]) -> str:
    return _any([_KINDS[peer.kind].format(one_line(peer.value)) for peer in peers])


def _any(items: Sequence[str]) -> str:
    return _joined(items, "or")


def _all(items: Sequence[str]) -> str:
    return _joined(items, "and")


def _joined(items: Sequence[str], last: str) -> str:
    shown = [one_line(str(item)) for item in items]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _duration(seconds: float) -> str:
    for size, name in _UNITS:
        if seconds >= size and not seconds % size:
            many = round(seconds / size)
            return f"{many} {name}{'' if many == 1 else 's'}"
    return f"{seconds:g} seconds"


def _size(count: float) -> str:
    for size, name in _SIZES:
        if count >= size and not count % size:
            return f"{round(count / size)} {name}"
    return f"{count:,.0f} bytes"


def _number(value: float) -> str:
    return f"{value:g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"
