"""The wizard's facts, plans and steps as views. Pure."""

from collections.abc import Sequence

from cmesh.daemon.setup_answers import (
    AgentFactView,
    NextView,
    PlanView,
    SetupPeerView,
    SetupRunnerView,
    SetupStepView,
    SetupView,
    SystemTailscaleView,
    UnitView,
)
from cmesh.setup.facts import Facts, PeerFact, RunnerFact, SystemTailscale
from cmesh.setup.plan import Plan
from cmesh.setup.records import Pending
from cmesh.setup.steps import Next, Step, next_of, steps_of

__all__ = ["next_view", "pending_view", "plan_view", "setup_view"]


def setup_view(facts: Facts, pending: Pending | None) -> SetupView:
    """Return all that the wizard shows."""
    return SetupView(
        os=facts.os,
        arch=facts.arch,
        host=facts.host,
        phase=facts.phase,
        node=facts.node,
        tailnet=facts.tailnet,
        testnet=facts.testnet,
        login_url=facts.login_url,
        control_url=facts.control_url,
        fingerprint=facts.fingerprint,
        config_file=str(facts.config_file),
        problem=facts.problem,
        keep_text=facts.keep_text or "",
        sandbox=facts.sandbox,
        agents=[AgentFactView(name=a.name, state=a.state, note=a.note) for a in facts.agents],
        runners=[_runner(runner) for runner in facts.runners],
        peers=[_peer(peer) for peer in facts.peers],
        tailscale=_tailscale(facts.tailscale),
        steps=[_step(step) for step in steps_of(facts)],
        waiting=pending_view(pending) if pending else None,
        next=next_view(next_of(facts, pending=pending is not None)),
    )


def next_view(step: Next) -> NextView:
    """Return the next call."""
    return NextView(tool=step.tool, arguments=dict(step.arguments), user=step.user)


def pending_view(pending: Pending) -> PlanView:
    """Return a change that waits."""
    view = plan_view(pending.plan, "waiting")
    fields = {"plan_id": pending.plan_id, "expires_at": pending.expires_at}
    return view.model_copy(update=fields)


def plan_view(plan: Plan, state: str, *, plan_id: str = "", notes: Sequence[str] = ()) -> PlanView:
    """Return a change."""
    fields = {"step": plan.step, "title": plan.title, "state": state, "plan_id": plan_id}
    unit = plan.unit and UnitView(file=plan.unit.file, text=plan.unit.after or "")
    return PlanView.model_validate(
        {
            **fields,
            "file": plan.file,
            "diff": plan.diff,
            "effects": list(plan.effects),
            "widens": list(plan.widens),
            "unit": unit,
            "notes": list(notes),
        }
    )


def _step(step: Step) -> SetupStepView:
    return SetupStepView(name=step.name, done=step.done, what=step.what, offered=step.offered)


def _runner(runner: RunnerFact) -> SetupRunnerView:
    return SetupRunnerView(
        name=runner.name,
        program=runner.program,
        version=runner.version,
        ready=runner.sandboxed and not runner.obstacle,
        needs_key=runner.needs_key,
        obstacle=runner.obstacle,
    )


def _peer(peer: PeerFact) -> SetupPeerView:
    return SetupPeerView(
        name=peer.name,
        node_id=peer.node_id,
        online=peer.online,
        is_cmesh=peer.is_cmesh,
        linked=peer.linked,
        trust=peer.trust,
        fingerprint=peer.fingerprint,
        asks=peer.asks,
        works=peer.works,
        may_ask=list(peer.may_ask),
    )


def _tailscale(system: SystemTailscale | None) -> SystemTailscaleView | None:
    if system is None:
        return None
    return SystemTailscaleView(
        state=system.state,
        name=system.name,
        control_url=system.control_url,
        readable=bool(system.state),
        peers=[f"{p.name} ({p.os})" if p.os else p.name for p in system.peers if p.online],
    )
