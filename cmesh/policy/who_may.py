"""Who may do what here: the real decision for each peer, profile and runner in one directory. Pure.

A cell answers for a plain task of an idle peer: no limits are near, no files or changes come along.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cmesh.model import Identity, Limits, NodeId, Operation, Profile
from cmesh.policy.audit import query_request
from cmesh.policy.decide import decide_inbound
from cmesh.policy.request import Decision, InboundRequest
from cmesh.policy.rules import Policy

__all__ = ["Cell", "directories_of", "may_here", "runners_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One answer: what is asked, and what the rules say to it."""

    profile: Profile
    runner: str
    decision: Decision


def may_here(
    identity: Identity,
    directory: str,
    runners: Mapping[str, frozenset[str]],
    self_id: NodeId,
    policy: Policy,
) -> tuple[Cell, ...]:
    """Decide a task of each profile by each runner. Never raises.

    `directory` has its links resolved; `runners` says what each tells while it runs, as
    `InboundRequest.reports` with `cost` for one that tells its cost.
    """
    plain = replace(
        query_request(identity, Operation.TASK, self_id),
        directory=directory,
        runtime_s=Limits().runtime_s,
        output_bytes=Limits().output_bytes,
    )
    return tuple(
        _cell(plain, profile, runner, tells, policy)
        for runner, tells in runners.items()
        for profile in Profile
    )


def directories_of(policy: Policy) -> tuple[str, ...]:
    """Return the directories that rules open to somebody, in order."""
    rules = [rule for rule in policy.inbound if rule.effect == "allow"]
    return tuple(sorted({path for rule in rules for path in rule.paths}))


def runners_of(policy: Policy, known: Iterable[str]) -> Sequence[str]:
    """Return the known runners that rules open to somebody; every other is denied to all."""
    rules = [rule for rule in policy.inbound if rule.effect == "allow"]
    named = {runner for rule in rules for runner in rule.runners}
    return [runner for runner in known if runner in named]


def _cell(
    plain: InboundRequest, profile: Profile, runner: str, tells: frozenset[str], policy: Policy
) -> Cell:
    request = replace(
        plain,
        profile=profile,
        runner=runner,
        reports_cost="cost" in tells,
        reports=tells - {"cost"},
    )
    return Cell(profile=profile, runner=runner, decision=decide_inbound(request, policy))
