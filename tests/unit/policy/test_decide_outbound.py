"""What this node asks of others."""

from typing import Any

import pytest

from cmesh.model import Profile
from cmesh.policy.decide import decide_outbound
from cmesh.policy.rules import Policy
from tests.unit.policy.support import (
    ANY,
    LAPTOP,
    THIRD,
    WORKER,
    allow,
    grant,
    inbound,
    node,
    out_allow,
    out_deny,
    outbound,
    sends,
    user,
    who,
)


def test_an_empty_policy_sends_nothing() -> None:
    assert decide_outbound(sends(), Policy.of()).effect == "deny"


def test_inbound_rules_do_not_allow_outbound_requests() -> None:
    rule = allow(peers=(ANY,), paths=("/",))
    assert decide_outbound(sends(), inbound(rule)).effect == "deny"


def test_a_rule_that_fits_allows_and_is_named() -> None:
    decision = decide_outbound(sends(), outbound(out_allow()))
    assert (decision.effect, decision.rule, decision.limits) == ("allow", "ask the worker", None)


@pytest.mark.parametrize(
    ("rule", "request_change", "condition"),
    [
        ({"peers": (node(THIRD),)}, {}, "peer"),
        ({"peers": (grant(),)}, {}, "peer"),
        ({"peers": (ANY,)}, {"identity": who(node_id=WORKER, shared=True)}, "peer"),
        ({"peers": (user(),)}, {"identity": who(node_id=WORKER, router=True)}, "peer"),
        ({}, {"profile": Profile.EDIT}, "profile"),
        ({"profiles": ()}, {}, "profile"),
        ({"runners": ("codex",)}, {}, "runner"),
        ({"repos": ("/home/alice/src/other",)}, {}, "repo"),
        ({"repos": ("/home/alice/src/my",)}, {}, "repo"),
        ({"repos": ("/",)}, {"project": ""}, "repo"),
        ({}, {"sends_changes": True}, "send_changes"),
        ({"prompt_bytes": 99}, {}, "prompt_bytes"),
    ],
)
def test_each_condition_denies_alone_and_is_named(
    rule: dict[str, Any], request_change: dict[str, Any], condition: str
) -> None:
    decision = decide_outbound(sends(**request_change), outbound(out_allow(**rule)))
    assert (decision.effect, decision.code) == ("deny", "policy_denied")
    assert [item.condition for item in decision.failed] == [condition]


@pytest.mark.parametrize(
    ("rule", "request_change"),
    [
        ({"runners": ("claude",)}, {}),
        ({"repos": ("/home/alice/src",)}, {}),
        ({}, {"project": ""}),
        ({"prompt_bytes": 100}, {}),
        ({"send_changes": True}, {"sends_changes": True}),
        ({}, {"identity": who(node_id=WORKER, shared=True, router=True)}),
    ],
)
def test_what_a_rule_covers_is_allowed(
    rule: dict[str, Any], request_change: dict[str, Any]
) -> None:
    assert decide_outbound(sends(**request_change), outbound(out_allow(**rule))).effect == "allow"


@pytest.mark.parametrize(
    ("rule", "request_change", "effect"),
    [
        ({}, {}, "deny"),
        ({"peers": (node(THIRD),)}, {}, "allow"),
        ({"profiles": (Profile.FULL,)}, {}, "allow"),
        ({"runners": ("codex",)}, {}, "allow"),
        ({"repos": ("/home/alice/secret",)}, {}, "allow"),
        ({"repos": ("/home/alice",)}, {}, "deny"),
        ({"repos": ("/home/alice/src/myapp/keys",)}, {}, "deny"),
        ({"repos": ("/home/alice/secret",)}, {"project": ""}, "deny"),
        ({"peers": (grant(),)}, {}, "deny"),
    ],
)
def test_deny_rules_win_and_what_they_cannot_know_denies(
    rule: dict[str, Any], request_change: dict[str, Any], effect: str
) -> None:
    policy = outbound(out_allow(), out_deny(**rule))
    assert decide_outbound(sends(**request_change), policy).effect == effect


def test_a_worker_with_an_expired_key_is_not_asked() -> None:
    request = sends(identity=who(node_id=WORKER, expired=True))
    assert decide_outbound(request, outbound(out_allow())).code == "key_expired"


@pytest.mark.parametrize(
    "chain", [(WORKER,), (WORKER, THIRD, LAPTOP), (LAPTOP, THIRD), ("n1", "n2", "n3", "n4")]
)
def test_a_chain_in_a_circle_or_too_long_is_not_sent(chain: tuple[str, ...]) -> None:
    decision = decide_outbound(sends(chain=chain), outbound(out_allow()))
    assert [item.condition for item in decision.failed] == ["chain"]


def test_a_chain_may_end_with_this_node() -> None:
    for chain in ((LAPTOP,), (THIRD,), (THIRD, LAPTOP)):
        assert decide_outbound(sends(chain=chain), outbound(out_allow())).effect == "allow"
