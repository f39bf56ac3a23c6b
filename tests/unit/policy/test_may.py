"""What a peer is told it may ask for."""

from typing import Any

import pytest

from cmesh.model import Operation, Profile
from cmesh.policy.decide import Allowed, may
from cmesh.policy.rules import FULL_CONSENT, Policy, RuleLimits
from tests.unit.policy.support import ANY, THIRD, allow, deny, grant, granted, inbound, node, who

RULE = allow(
    operations=(Operation.TASK, Operation.FOLLOW_UP),
    profiles=(Profile.QUERY, Profile.EDIT),
    runners=("claude", "codex"),
    paths=("/srv/myapp", "/srv/other"),
    limits=RuleLimits(runtime_s=60),
)


def test_without_rules_nothing() -> None:
    assert may(who(), Policy.of()) == Allowed()


def test_the_union_of_the_rules_that_match() -> None:
    more = allow(name="b", peers=(ANY,), paths=("/b",), limits=RuleLimits(runtime_s=90))
    other = allow(name="c", peers=(node(THIRD),), paths=("/c",))
    allowed = may(who(), inbound(RULE, more, other))
    assert allowed.paths == ("/b", "/srv/myapp", "/srv/other")
    assert allowed.operations == (Operation.FOLLOW_UP, Operation.TASK)
    assert allowed.runtime_s == 90
    assert may(who(), inbound(RULE, allow(name="d"))).runtime_s is None


@pytest.mark.parametrize("change", [{"expired": True}, {"shared": True}, {"router": True}])
def test_an_expired_foreign_or_routing_node_may_nothing(change: dict[str, Any]) -> None:
    assert may(who(**change), inbound(RULE)) == Allowed()


def test_a_grant_narrows() -> None:
    value = {"profiles": ["edit"], "runners": ["codex", "x"], "paths": ["/srv/myapp/sub", "/etc"]}
    allowed = may(granted(value), inbound(allow(peers=(grant(),), profiles=RULE.profiles)))
    assert allowed.profiles == (Profile.EDIT,)
    assert allowed.runners == ()
    assert allowed.paths == ("/srv/myapp/sub",)
    whole = may(granted({"paths": ["/srv"]}), inbound(allow(peers=(grant(),))))
    assert whole.paths == ("/srv/myapp",)
    assert may(granted("malformed"), inbound(allow(peers=(grant(),)))) == Allowed()


def test_full_is_told_with_its_consent_only() -> None:
    rule = allow(profiles=(Profile.FULL,))
    assert may(who(), inbound(rule)).profiles == ()
    rule = allow(profiles=(Profile.FULL,), consent=FULL_CONSENT)
    assert may(who(), inbound(rule)).profiles == (Profile.FULL,)


@pytest.mark.parametrize(
    ("rule", "lost"),
    [
        ({"profiles": (Profile.EDIT,)}, {"profiles": (Profile.QUERY,)}),
        ({"runners": ("codex",)}, {"runners": ("claude",)}),
        ({"operations": (Operation.FOLLOW_UP,)}, {"operations": (Operation.TASK,)}),
        ({"paths": ("/srv/other",)}, {"paths": ("/srv/myapp",)}),
    ],
)
def test_what_a_deny_rule_takes_is_not_told(rule: dict[str, Any], lost: dict[str, Any]) -> None:
    allowed = may(who(), inbound(RULE, deny(**rule)))
    for key, left in lost.items():
        assert getattr(allowed, key) == left


def test_a_deny_rule_about_the_peer_leaves_nothing() -> None:
    assert may(who(), inbound(RULE, deny())) == Allowed()
    assert may(who(), inbound(RULE, deny(peers=(node(THIRD),)))) != Allowed()


def test_a_deny_rule_of_several_conditions_leaves_what_one_of_them_spares() -> None:
    rule = deny(profiles=(Profile.EDIT,), runners=("codex",))
    assert may(who(), inbound(RULE, rule)) == may(who(), inbound(RULE))
