"""May a task that was admitted go on? Asked when the netmap or the policy changes."""

from cmesh.daemon.admission import Grant
from cmesh.daemon.parts import Parts
from cmesh.errors import CmeshError
from cmesh.model import Operation
from cmesh.policy.decide import InboundRequest, decide_inbound
from cmesh.store.records import TaskRecord

__all__ = ["lost"]


async def lost(parts: Parts, record: TaskRecord, grant: Grant | None) -> tuple[str, str] | None:
    """Return code and reason when a task's caller has lost the right to it, else None.

    A peer that whois no longer knows has lost every right (fail closed).
    """
    if grant is not None and grant.on_revoke == "stay":
        return None
    try:
        identity = await parts.identify(record.peer_id)
    except CmeshError as error:
        return "policy_denied", f"the caller left the tailnet: {error.message}"
    spec = record.spec
    request = InboundRequest(
        identity=identity,
        operation=Operation.TASK,
        profile=spec.profile,
        runner=spec.runner,
        directory=grant.directory if grant else spec.directory,
        accept=spec.accept,
        runtime_s=spec.limits.runtime_s,
        output_bytes=spec.limits.output_bytes,
        cost_usd=spec.limits.cost_usd,
        running=0,
        today=0,
        reports_cost=grant is not None and grant.runner.reports_cost,
        chain=spec.origin,
        self_id=parts.self_id(),
    )
    decision = decide_inbound(request, parts.rules.policy())
    if decision.effect != "deny":
        return None
    return decision.code or "policy_denied", f"the right to it was lost: {decision.reason}"
