"""Whether a query may be asked of a peer, and what one of a peer sees."""

import pytest

from cmesh.model import NodeId, Operation
from cmesh.policy.audit import decide_answer, decide_question
from cmesh.policy.rules import OutboundRule, Policy
from tests.unit.policy.support import allow, deny, node, who

ME = NodeId("nSELF")


@pytest.mark.parametrize(
    ("operations", "effect", "scope"),
    [
        ((Operation.SQL_OWN,), "allow", "own"),
        ((Operation.SQL_ALL,), "allow", "all"),
        ((Operation.SQL_OWN, Operation.SQL_ALL), "allow", "all"),
        ((Operation.TASK,), "deny", "own"),
    ],
)
def test_a_rule_says_how_much_is_seen(
    operations: tuple[Operation, ...], effect: str, scope: str
) -> None:
    policy = Policy.of((allow(operations=operations),))
    decision, seen, _ = decide_answer(who(), ME, policy)
    assert (decision.effect, seen) == (effect, scope)


def test_nothing_is_seen_by_default_and_a_deny_rule_narrows() -> None:
    assert decide_answer(who(), ME, Policy.of())[0].effect == "deny"
    both = allow(operations=(Operation.SQL_OWN, Operation.SQL_ALL))
    narrowed = Policy.of((both, deny(operations=(Operation.SQL_ALL,))))
    decision, scope, operation = decide_answer(who(), ME, narrowed)
    assert (decision.effect, scope, operation) == ("allow", "own", Operation.SQL_OWN)
    assert decide_answer(who(), ME, Policy.of((both, deny())))[0].effect == "deny"


def test_a_rule_that_asks_its_owner_answers_no_query() -> None:
    policy = Policy.of((allow(operations=(Operation.SQL_ALL,), approval="ask"),))
    decision, _, _ = decide_answer(who(), ME, policy)
    assert decision.effect == "deny"
    assert decision.code == "policy_denied"


def out(**fields: object) -> OutboundRule:
    values: dict[str, object] = {"name": "ask", "effect": "allow", "peers": (node("nWORKER"),)}
    return OutboundRule(**{**values, **fields})  # pyright: ignore[reportArgumentType]


def test_only_a_peer_that_an_outbound_rule_names_is_asked() -> None:
    peer = who(node_id=NodeId("nWORKER"))

    def asked(*rules: OutboundRule, size: int = 10) -> str:
        return decide_question(peer, Policy.of((), rules), statement_bytes=size).effect

    assert asked() == "deny"
    assert "[[outbound.allow]]" in decide_question(peer, Policy.of(), statement_bytes=1).change
    assert asked(out()) == "allow"
    assert asked(out(peers=(node("nOTHER"),))) == "deny"
    assert asked(out(prompt_bytes=10)) == "allow"
    assert asked(out(prompt_bytes=10), size=11) == "deny"
    assert asked(out(), out(name="no", effect="deny")) == "deny"
    assert asked(out(), out(name="no runs", effect="deny", runners=("claude",))) == "allow"
    expired = who(node_id=NodeId("nWORKER"), expired=True)
    policy = Policy.of((), (out(),))
    assert decide_question(expired, policy, statement_bytes=1).code == "key_expired"
