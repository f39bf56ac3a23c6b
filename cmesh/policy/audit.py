"""Whether a query of the audit may be asked of a peer, and answered to one. Pure.

Inbound, `sql_own` and `sql_all` are operations of rules like others. Outbound there is nothing
to run: the words of a query go out, so who may be told prompts may be asked, and nobody else.
"""

from dataclasses import replace
from typing import Literal

from cmesh.model import Identity, NodeId, Operation
from cmesh.policy.decide import decide_inbound
from cmesh.policy.match import denies_peer, match_peer
from cmesh.policy.request import Decision, Failed, InboundRequest
from cmesh.policy.rules import OutboundRule, Policy

__all__ = ["Scope", "decide_answer", "decide_question", "query_request"]

Scope = Literal["own", "all"]
"""What an answer is made of: rows of the asker's own tasks, or every row."""

_NO_WAY = "answering waits for nobody, so a rule with `approval = ask` answers no query"


def query_request(identity: Identity, operation: Operation, self_id: NodeId) -> InboundRequest:
    """Return the question that a peer's query is to this node's rules."""
    return InboundRequest(
        identity=identity,
        operation=operation,
        profile=None,
        runner="",
        directory="",
        accept=(),
        runtime_s=0,
        output_bytes=0,
        cost_usd=None,
        running=0,
        today=0,
        reports_cost=False,
        chain=(),
        self_id=self_id,
    )


def decide_answer(
    identity: Identity, self_id: NodeId, policy: Policy
) -> tuple[Decision, Scope, Operation]:
    """Decide what a peer's query sees here: all, else its own, else nothing. Never raises.

    The decision is about the operation that is returned; `own` where it is a denial.
    """
    whole = _answered(identity, Operation.SQL_ALL, self_id, policy)
    if whole.effect == "allow":
        return whole, "all", Operation.SQL_ALL
    return _answered(identity, Operation.SQL_OWN, self_id, policy), "own", Operation.SQL_OWN


def decide_question(identity: Identity, policy: Policy, *, statement_bytes: int) -> Decision:
    """Decide whether this node sends a query to a peer. Never raises.

    An outbound rule that names the peer is needed, whatever it says of runs; one with
    `prompt_bytes` sends no longer statement. A deny rule about runs is not about this.
    """
    if identity.expired:
        return _denied(None, "the peer's node key has expired", code="key_expired")
    for rule in policy.outbound:
        about_runs = bool(rule.profiles or rule.runners or rule.repos)
        if rule.effect == "deny" and not about_runs:
            holds = denies_peer(identity, rule.peers, grants_known=False)
            if holds is not False:
                return _denied(rule.name, f"rule `{rule.name}` denies it")
    named = [
        rule
        for rule in policy.outbound
        if rule.effect == "allow" and match_peer(identity, rule.peers).plain
    ]
    fits = [rule for rule in named if _fits(rule, statement_bytes)]
    if fits:
        name = min(rule.name for rule in fits)
        return Decision(effect="allow", rule=name, reason=f"rule `{name}` allows it")
    if named:
        rule = named[0]
        wanted = f"at most {rule.prompt_bytes} bytes"
        failed = Failed(
            rule=rule.name,
            condition="prompt_bytes",
            wanted=wanted,
            got=f"{statement_bytes} bytes",
        )
        reason = f"rule `{rule.name}` lets out no statement of {statement_bytes} bytes"
        return replace(_denied(None, reason), failed=(failed,))
    change = (
        "add to the configuration:\n[[outbound.allow]]\n"
        f'name = "ask {identity.node_id}"\npeers = ["node:{identity.node_id}"]\nprofiles = ["query"]'
    )
    return replace(_denied(None, "no outbound rule names this peer"), change=change)


def _answered(
    identity: Identity, operation: Operation, self_id: NodeId, policy: Policy
) -> Decision:
    decision = decide_inbound(query_request(identity, operation, self_id), policy)
    if decision.effect != "ask":
        return decision
    return _denied(decision.rule, _NO_WAY)


def _fits(rule: OutboundRule, statement_bytes: int) -> bool:
    return rule.prompt_bytes is None or statement_bytes <= rule.prompt_bytes


def _denied(rule: str | None, reason: str, code: str = "policy_denied") -> Decision:
    return Decision(effect="deny", rule=rule, code=code, reason=reason)
