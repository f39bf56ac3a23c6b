"""Abuse case 23 in the policy: tasks that ask for tasks come to an end, and only ever narrow."""

from dataclasses import replace
from typing import Any

import pytest

from cmesh.model import Limits, NodeId, Operation, Profile
from cmesh.policy.chain import MAX_CHAIN, callers, chain_failure, narrowed
from cmesh.policy.decide import Decision, decide_inbound, decide_outbound
from cmesh.policy.request import Held
from cmesh.policy.rules import FULL_CONSENT
from tests.unit.policy.support import (
    ANY,
    allow,
    asks,
    inbound,
    out_allow,
    outbound,
    sends,
    who,
)

EVERYTHING_IN = allow(peers=(ANY,), operations=tuple(Operation), profiles=(Profile.QUERY,))
EVERYTHING_OUT = out_allow(peers=(ANY,), profiles=tuple(Profile))
LEFT = Limits(runtime_s=60, output_bytes=1000, cost_usd=1.0)


def held(**changes: Any) -> Held:
    task = Held(
        may_delegate=True,
        profile=Profile.EDIT,
        runners=("claude", "command:test"),
        directory="/srv/myapp",
        limits=LEFT,
    )
    return replace(task, **changes)


def handed_on(**changes: Any) -> Decision:
    fields: dict[str, Any] = {"held": held(), "project": "/srv/myapp/src", **changes}
    return decide_outbound(sends(**fields), outbound(EVERYTHING_OUT))


def hop(chain: tuple[NodeId, ...], here: NodeId, to: NodeId) -> tuple[str, str]:
    """Say what `here` says to sending a task on to `to`, and `to` to taking it from `here`."""
    out = decide_outbound(
        sends(identity=who(node_id=to), chain=chain, self_id=here), outbound(EVERYTHING_OUT)
    )
    into = decide_inbound(
        asks(identity=who(node_id=here), chain=chain, self_id=to), inbound(EVERYTHING_IN)
    )
    return out.effect, into.effect


def test_a_ring_of_three_stops_when_it_closes_on_either_side() -> None:
    a, b, c = map(NodeId, ("nA", "nB", "nC"))
    assert hop((), a, b) == ("allow", "allow")
    assert hop((a,), b, c) == ("allow", "allow")
    assert hop((a, b), c, a) == ("deny", "deny")
    assert hop((a, b), c, b) == ("deny", "deny")
    assert hop((a,), b, a) == ("deny", "deny")


def test_a_denied_circle_shows_the_whole_chain_to_the_owner() -> None:
    a, b, c = map(NodeId, ("nA", "nB", "nC"))
    request = asks(identity=who(node_id=c), chain=(a, b), self_id=a)
    decision = decide_inbound(request, inbound(EVERYTHING_IN))
    assert decision.failed[0].got == "nA > nB > nC > nA"
    assert decision.change == (
        "no rule can allow this: delegate from a node that is nearer to the worker"
    )
    assert decision.reason.startswith("the chain of callers is refused: nA > nB > nC > nA")


def test_a_line_of_nodes_stops_at_the_limit_on_either_side() -> None:
    nodes = [NodeId(f"n{number}") for number in range(MAX_CHAIN + 3)]
    reached = 0
    for index in range(len(nodes) - 1):
        chain = tuple(nodes[:index])
        answers = hop(chain, nodes[index], nodes[index + 1])
        assert answers == (("allow", "allow") if index < MAX_CHAIN else ("deny", "deny"))
        reached += answers == ("allow", "allow")
    assert reached == MAX_CHAIN


def test_the_direct_caller_stands_last_in_the_chain_once() -> None:
    a, b = NodeId("nA"), NodeId("nB")
    assert callers((), b) == (b,)
    assert callers((a,), b) == (a, b)
    assert callers((a, b), b) == (a, b)
    failed = chain_failure((a, b, a), NodeId("nC"))
    assert failed is not None
    assert (failed.rule, failed.condition, failed.wanted) == ("", "chain", "each node once")
    long = chain_failure(tuple(map(NodeId, "abcde")), b)
    assert long is not None
    assert (long.wanted, long.got) == ("at most 4 callers", "5 callers")


def test_a_task_may_hand_on_what_it_has() -> None:
    for profile in (Profile.QUERY, Profile.EDIT):
        for project in ("/srv/myapp", "/srv/myapp/src"):
            assert handed_on(profile=profile, project=project).effect == "allow"
    assert handed_on(runner="command:test").effect == "allow"


@pytest.mark.parametrize(
    ("changes", "wanted", "got"),
    [
        ({"held": held(may_delegate=False)}, "a task whose caller may delegate", "may not"),
        ({"profile": Profile.BUILD}, "at most profile edit", "build"),
        ({"profile": Profile.FULL}, "at most profile edit", "full"),
        ({"runner": "codex"}, "a runner its caller may ask for: claude, command:test", "codex"),
        ({"runner": ""}, "a runner its caller may ask for", "none"),
        ({"project": "/srv"}, "a directory at or below the task's own", "/srv"),
        ({"project": "/srv/myapp2"}, "a directory at or below", "/srv/myapp2"),
        ({"project": ""}, "a directory at or below", "none"),
        ({"held": held(limits=replace(LEFT, runtime_s=0))}, "time, money, turns", "none left"),
        ({"held": held(limits=replace(LEFT, cost_usd=0.0))}, "time, money, turns", "none left"),
    ],
)
def test_a_task_hands_on_nothing_it_does_not_have_whatever_the_rules_say(
    changes: dict[str, Any], wanted: str, got: str
) -> None:
    decision = handed_on(**changes)
    assert (decision.effect, decision.code, decision.rule) == ("deny", "policy_denied", None)
    (failed,) = decision.failed
    assert (failed.rule, failed.condition) == ("", "held")
    assert wanted in failed.wanted
    assert got in failed.got
    assert decision.reason.startswith("a task hands on only what it has: ")
    assert decision.change == "no rule can allow this: ask for less"


def test_profiles_are_ordered_from_query_to_full() -> None:
    order = list(Profile)
    for own in order:
        for wanted in order:
            effect = handed_on(held=held(profile=own), profile=wanted).effect
            assert (effect == "allow") == (order.index(wanted) <= order.index(own))


def test_limits_are_never_more_than_the_task_has_left() -> None:
    wish = Limits(runtime_s=900, output_bytes=10, cost_usd=None)
    assert narrowed(wish, held()) == Limits(runtime_s=60, output_bytes=10, cost_usd=1.0)
    assert narrowed(wish, None) == wish
    for cost, left, most in (
        (0.5, 1.0, 0.5),
        (2.0, 1.0, 1.0),
        (2.0, None, 2.0),
        (-1.0, 1.0, 1.0),
        (0.0, 1.0, 0.0),
        (float("nan"), 1.0, 1.0),
        (None, None, None),
    ):
        limits = replace(LEFT, cost_usd=left)
        assert narrowed(replace(wish, cost_usd=cost), held(limits=limits)).cost_usd == most


def test_a_chain_is_taken_on_only_by_a_rule_that_says_delegate() -> None:
    first = NodeId("nFIRST")
    rule = allow(profiles=(Profile.FULL,), consent=FULL_CONSENT)
    request = asks(chain=(first,), profile=Profile.FULL)
    assert decide_inbound(request, inbound(rule)).effect == "deny"
    rule = replace(rule, operations=(Operation.TASK, Operation.DELEGATE))
    assert decide_inbound(request, inbound(rule)).effect == "allow"
