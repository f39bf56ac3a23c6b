"""What people are told, and what the other side may know."""

from dataclasses import replace

import pytest

from cmesh.model import Profile
from cmesh.policy.decide import InboundRequest, decide_inbound, decide_outbound
from cmesh.policy.explain import explain, for_remote
from cmesh.policy.rules import Policy, RuleLimits
from tests.unit.policy.support import (
    THIRD,
    allow,
    asks,
    deny,
    grant,
    granted,
    inbound,
    node,
    outbound,
    sends,
    user,
    who,
)

SECRET = allow(name="SECRET-RULE", peers=(node("nSECRET"),), paths=("/SECRET",))
MINE = allow(name="laptop rule", paths=("/SECRET/app",))


def test_the_owner_sees_question_answer_conditions_and_change() -> None:
    request = asks(directory="/etc")
    lines = explain(decide_inbound(request, inbound(allow())), request)
    assert lines == [
        (
            "inbound: laptop.tail.example (alice@example.com, node:nLAPTOP) asks for task, "
            "profile query, runner claude, in /etc"
        ),
        "denied: no rule allows it; the nearest, `laptop may ask`, fails on path",
        'rule "laptop may ask": path: wanted /srv/myapp, got /etc',
        "to allow it:",
        '    in the [[inbound.allow]] rule "laptop may ask" set',
        '    paths = ["/srv/myapp", "/etc"]',
    ]


def test_an_allowed_request_shows_its_narrowed_limits() -> None:
    request = asks()
    rule = allow(limits=RuleLimits(runtime_s=60, cost_usd=2.5))
    lines = explain(decide_inbound(request, inbound(rule)), request)
    assert lines[1:] == [
        "allowed: rule `laptop may ask` allows it",
        "limits: 60 s (narrowed from 600 s), 1000000 bytes of output, 2.5 USD",
    ]


def test_an_outbound_decision_is_explained_too() -> None:
    request = sends(project="")
    lines = explain(decide_outbound(request, outbound()), request)
    assert lines[0].startswith("outbound: ask worker.tail.example")
    assert lines[0].endswith("from an unknown project")
    assert lines[1] == "denied: there is no allow rule in this direction"
    assert "    [[outbound.allow]]" in lines


def test_explained_remote_text_has_no_control_characters() -> None:
    request = asks(identity=who(name="a\x1b]52;c;\x07b\n"), directory="/\u202ex\r\n")
    for line in explain(decide_inbound(request, inbound(allow())), request):
        assert line.isprintable()


@pytest.mark.parametrize(
    ("request_", "policy", "kinds"),
    [
        pytest.param(asks(), inbound(SECRET), [], id="rules about others only"),
        pytest.param(asks(), Policy.of(), [], id="no rules"),
        pytest.param(asks(), inbound(SECRET, MINE), ["path"], id="a rule about it"),
        pytest.param(
            asks(profile=Profile.EDIT), inbound(MINE), ["profile", "path"], id="two conditions"
        ),
        pytest.param(
            asks(directory="/SECRET/app"),
            inbound(MINE, deny(name="SECRET-DENY")),
            [],
            id="a deny rule",
        ),
        pytest.param(
            asks(identity=who(user=""), directory="/SECRET/app"),
            inbound(MINE, deny(name="SECRET-DENY", peers=(user("SECRET@x"),))),
            [],
            id="a deny rule that cannot be evaluated",
        ),
        pytest.param(
            asks(identity=granted({"paths": ["/SECRET"]})),
            inbound(allow(peers=(grant(),), name="SECRET-GRANT")),
            ["grant"],
            id="a grant that is too narrow",
        ),
        pytest.param(asks(identity=who(shared=True)), inbound(MINE), [], id="a foreign node"),
        pytest.param(asks(identity=who(expired=True)), inbound(MINE), [], id="an expired key"),
        pytest.param(asks(chain=(THIRD, THIRD)), inbound(MINE), ["chain"], id="a circle"),
    ],
)
def test_the_other_side_learns_kinds_of_conditions_about_it_only(
    request_: InboundRequest, policy: Policy, kinds: list[str]
) -> None:
    decision = decide_inbound(request_, policy)
    told = for_remote(decision)
    assert (told.effect, told.code, told.rule) == ("deny", decision.code, None)
    if decision.code != "key_expired":
        assert [item.condition for item in told.failed] == kinds
    assert all((f.rule, f.wanted, f.got) == ("", "", "") for f in told.failed)
    assert "SECRET" not in repr(told)
    assert "laptop rule" not in repr(told)


def test_a_deny_rule_looks_like_the_absence_of_rules() -> None:
    denied = for_remote(decide_inbound(asks(), inbound(allow(), deny())))
    assert denied == for_remote(decide_inbound(asks(), Policy.of()))


def test_the_other_side_learns_that_it_is_busy_and_what_to_do() -> None:
    rule = allow(limits=RuleLimits(concurrent=1))
    told = for_remote(decide_inbound(asks(running=1), inbound(rule)))
    assert (told.code, [item.condition for item in told.failed]) == ("busy", ["concurrent"])
    assert "wait" in told.change


def test_an_allowed_peer_is_told_rule_and_limits() -> None:
    decision = decide_inbound(asks(), inbound(allow()))
    assert for_remote(decision) == replace(decision, profile=None)
