"""May a task that was admitted go on? Asked when the netmap or the policy changes."""

import asyncio
from dataclasses import replace

from cmesh.daemon.admission import Grant, task_request
from cmesh.daemon.parts import Parts
from cmesh.daemon.roots import real_path
from cmesh.errors import CmeshError, IdentityUnknown, UnknownPeer
from cmesh.model import Identity, NodeId
from cmesh.policy.decide import decide_inbound
from cmesh.policy.explain import for_remote
from cmesh.policy.rules import Policy
from cmesh.runner.manifest import REPORTS
from cmesh.store.records import TaskRecord

__all__ = ["asker", "lost", "stays"]


async def asker(parts: Parts, peer_id: NodeId) -> Identity | CmeshError:
    """Return who a peer is now, or why nobody can say; asked once for all of its tasks."""
    try:
        return await parts.identify(peer_id)
    except CmeshError as error:
        return error


async def lost(
    parts: Parts,
    record: TaskRecord,
    grant: Grant | None,
    caller: Identity | CmeshError,
    *,
    started: bool,
) -> tuple[str, str] | None:
    """Return code and reason when a task's caller has lost the right to it, else None.

    Only what has started can stay without the right, by `on_revoke`. A peer that whois no
    longer knows has lost every right (fail closed). When this node itself cannot ask, or cannot
    read its rules, nothing is known: no work is ended then, and nothing new is admitted.
    """
    policy = parts.rules.policy()  # looks at the file first, so that `error` is of now
    if parts.rules.error is not None or (started and _stays(policy, record, grant)):
        return None
    if isinstance(caller, UnknownPeer | IdentityUnknown):
        return "policy_denied", f"the caller left the tailnet: {caller.message}"
    if isinstance(caller, CmeshError):
        return None
    spec = record.spec
    directory = grant.directory if grant else await asyncio.to_thread(real_path, spec.directory)
    # The runner is this machine's own: what it reports is no right of the caller's.
    reports_cost = grant is None or grant.runner.reports_cost
    reports = frozenset(REPORTS if grant is None else grant.runner.manifest.reports)
    asked = task_request(parts, caller, spec, directory)
    request = replace(asked, reports_cost=reports_cost, reports=reports)
    decision = decide_inbound(request, policy)
    if decision.effect != "deny":
        return None
    told = for_remote(decision)
    return told.code or "policy_denied", f"the right to it was lost: {told.reason}"


def stays(parts: Parts, record: TaskRecord, grant: Grant | None) -> bool:
    """Say whether a running task goes on although its caller has lost the right to it."""
    return _stays(parts.rules.policy(), record, grant)


def _stays(policy: Policy, record: TaskRecord, grant: Grant | None) -> bool:
    """Whether the task was admitted by a rule that lets it end by itself."""
    if grant is not None:
        return grant.on_revoke == "stay"
    rules = [rule for rule in policy.inbound if rule.name == record.rule]
    return any(rule.effect == "allow" and rule.on_revoke == "stay" for rule in rules)
