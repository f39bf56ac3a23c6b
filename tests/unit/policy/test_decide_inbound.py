"""What this node does for others, condition by condition."""

from typing import Any

import pytest

from cmesh.model import Identity, Limits, Operation, Profile
from cmesh.policy.decide import decide_inbound
from cmesh.policy.rules import FULL_CONSENT, Policy, RuleLimits, Selector
from tests.unit.policy.support import (
    ALICE,
    ANY,
    LAPTOP,
    THIRD,
    WORKER,
    allow,
    asks,
    deny,
    grant,
    granted,
    inbound,
    node,
    tag,
    user,
    who,
)


def test_an_empty_policy_denies() -> None:
    decision = decide_inbound(asks(), Policy.of())
    assert (decision.effect, decision.code, decision.rule) == ("deny", "policy_denied", None)
    assert decision.limits is None


def test_a_rule_that_fits_allows_and_is_named() -> None:
    decision = decide_inbound(asks(), inbound(allow()))
    assert (decision.effect, decision.rule, decision.code) == ("allow", "laptop may ask", "")
    assert decision.failed == ()
    assert decision.change == ""


def test_a_deny_rule_wins_over_every_allow_rule() -> None:
    decision = decide_inbound(asks(), inbound(allow(), deny()))
    assert (decision.effect, decision.rule) == ("deny", "never")


def test_approval_asks_the_owner() -> None:
    decision = decide_inbound(asks(), inbound(allow(approval="ask")))
    assert (decision.effect, decision.code) == ("ask", "")
    assert decision.limits is not None


def test_a_rule_without_approval_spares_the_question_another_rule_would_ask() -> None:
    policy = inbound(allow(name="a", approval="ask"), allow(name="b"))
    assert (decide_inbound(asks(), policy).effect, decide_inbound(asks(), policy).rule) == (
        "allow",
        "b",
    )


def test_the_output_of_an_approved_run_needs_no_second_approval() -> None:
    rule = allow(operations=(Operation.TASK, Operation.ARTIFACT), approval="ask")
    decision = decide_inbound(asks(operation=Operation.ARTIFACT), inbound(rule))
    assert decision.effect == "allow"


TAGGED = who(user="tagged-devices", tags=("tag:laptop",))


@pytest.mark.parametrize(
    ("identity", "peer", "fits"),
    [
        pytest.param(who(), node(), True, id="its node id"),
        pytest.param(who(), node(THIRD), False, id="another node id"),
        pytest.param(who(), user(), True, id="its user"),
        pytest.param(who(), user("bob@example.com"), False, id="another user"),
        pytest.param(who(), user("Alice@example.com"), False, id="its user in other letters"),
        pytest.param(who(), ANY, True, id="any peer"),
        pytest.param(TAGGED, tag(), True, id="its tag"),
        pytest.param(TAGGED, tag("lap"), False, id="a part of its tag"),
        pytest.param(TAGGED, user("tagged-devices"), False, id="the login of all tagged nodes"),
        pytest.param(TAGGED, user("tag:laptop"), False, id="a user spelt like its tag"),
        pytest.param(who(user="tag:laptop"), tag(), False, id="a user spelt like a tag"),
        pytest.param(
            who(user="tagged-devices"), user("tagged-devices"), False, id="that login without tags"
        ),
        pytest.param(who(tags=("tag:laptop",)), user(), False, id="a tagged node with a login"),
        pytest.param(who(user=""), user(""), False, id="an empty user"),
        pytest.param(who(node_id=""), node(""), False, id="an empty node id"),
        pytest.param(who(shared=True), ANY, False, id="shared in, any"),
        pytest.param(who(shared=True), user(), False, id="shared in, by user"),
        pytest.param(granted({}, shared=True), grant(), False, id="shared in, by grant"),
        pytest.param(who(router=True), user(), False, id="a router, by user"),
        pytest.param(who(router=True), ANY, False, id="a router, any"),
        pytest.param(who(ephemeral=True), user(), True, id="ephemeral: trust is not decided here"),
    ],
)
def test_selectors_are_kinds_apart(identity: Identity, peer: Selector, fits: bool) -> None:
    # Both flags are set, so that only the selector's own kind is at stake.
    decision = decide_inbound(
        asks(identity=identity), inbound(allow(peers=(peer,), shared=True, router=True))
    )
    assert (decision.effect == "allow") is fits
    if not fits:
        assert [item.condition for item in decision.failed] == ["peer"]


@pytest.mark.parametrize("flag", ["shared", "router"])
def test_foreign_nodes_and_routers_need_their_flag(flag: str) -> None:
    request = asks(identity=who(**{flag: True}))
    assert decide_inbound(request, inbound(allow(**{flag: True}))).effect == "allow"
    decision = decide_inbound(request, inbound(allow()))
    assert [item.condition for item in decision.failed] == [flag]


def test_an_expired_key_is_denied_whatever_the_rules_say() -> None:
    decision = decide_inbound(asks(identity=who(expired=True)), inbound(allow(peers=(ANY,))))
    assert (decision.effect, decision.code) == ("deny", "key_expired")
    assert [item.condition for item in decision.failed] == ["key"]


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"operation": Operation.FOLLOW_UP}, "operation"),
        ({"profile": Profile.EDIT}, "profile"),
        ({"profile": None}, "profile"),
        ({"runner": "codex"}, "runner"),
        ({"runner": ""}, "runner"),
        ({"directory": "/srv/other"}, "path"),
        ({"directory": "/srv/myapp2"}, "path"),
        ({"directory": "/srv"}, "path"),
        ({"directory": "srv/myapp"}, "path"),
        ({"directory": "/srv/myapp/../other"}, "path"),
        ({"directory": ""}, "path"),
        ({"accept": ("make", "test")}, "accept"),
        ({"chain": (THIRD,)}, "delegate"),
        ({"cost_usd": 1.0, "reports_cost": False}, "cost_usd"),
    ],
)
def test_each_condition_denies_alone_and_is_named(change: dict[str, Any], condition: str) -> None:
    decision = decide_inbound(asks(**change), inbound(allow()))
    assert decision.effect == "deny"
    assert [(item.rule, item.condition) for item in decision.failed] == [
        ("laptop may ask", condition)
    ]
    assert condition in decision.reason
    assert decision.change


def test_a_directory_below_the_path_is_allowed() -> None:
    for directory in ("/srv/myapp/deep/er", "/srv/myapp/", "//srv/./myapp"):
        assert decide_inbound(asks(directory=directory), inbound(allow())).effect == "allow"
    assert decide_inbound(asks(directory="/x"), inbound(allow(paths=("/",)))).effect == "allow"


@pytest.mark.parametrize("runner", ["command:deploy", "command", "command:deploy-check2"])
def test_a_command_is_named_exactly(runner: str) -> None:
    rule = allow(runners=("command:deploy-check",))
    assert decide_inbound(asks(runner=runner), inbound(rule)).effect == "deny"
    assert decide_inbound(asks(runner="command:deploy-check"), inbound(rule)).effect == "allow"
    assert decide_inbound(asks(runner=runner), inbound(allow(runners=("command",)))).effect == (
        "allow" if runner == "command" else "deny"
    )


def test_an_acceptance_command_is_allowed_by_its_exact_argv() -> None:
    policy = inbound(allow(accept=(("make", "test"),)))
    assert decide_inbound(asks(accept=("make", "test")), policy).effect == "allow"
    for argv in (("make", "test", "x"), ("make",), ("make test",), ("make", "Test")):
        assert decide_inbound(asks(accept=argv), policy).effect == "deny"


def test_operation_accept_needs_a_command() -> None:
    policy = inbound(allow(operations=(Operation.ACCEPT,), accept=(("make", "test"),)))
    request = asks(operation=Operation.ACCEPT)
    assert decide_inbound(request, policy).effect == "deny"
    assert decide_inbound(asks(operation=Operation.ACCEPT, accept=("make", "test")), policy)


def test_full_needs_the_rules_consent() -> None:
    request = asks(profile=Profile.FULL)
    decision = decide_inbound(request, inbound(allow(profiles=(Profile.FULL,))))
    assert [item.condition for item in decision.failed] == ["consent"]
    rule = allow(profiles=(Profile.FULL,), consent=FULL_CONSENT)
    assert decide_inbound(request, inbound(rule)).effect == "allow"


def test_sql_has_no_profile_runner_or_directory() -> None:
    request = asks(
        operation=Operation.SQL_OWN, profile=None, runner="", directory="", running=99, today=99
    )
    rule = allow(
        operations=(Operation.SQL_OWN,),
        profiles=(),
        runners=(),
        paths=(),
        limits=RuleLimits(concurrent=1, per_day=1, cost_usd=1),
    )
    assert decide_inbound(request, inbound(rule)).effect == "allow"
    assert decide_inbound(request, inbound(allow())).effect == "deny"


def test_longer_wishes_are_narrowed_to_the_rule() -> None:
    rule = allow(limits=RuleLimits(runtime_s=60, output_bytes=1_000, cost_usd=2.0))
    assert decide_inbound(asks(), inbound(rule)).limits == Limits(
        runtime_s=60, output_bytes=1_000, cost_usd=2.0
    )
    smaller = asks(runtime_s=30, output_bytes=10, cost_usd=0.5)
    assert decide_inbound(smaller, inbound(rule)).limits == Limits(
        runtime_s=30, output_bytes=10, cost_usd=0.5
    )


@pytest.mark.parametrize("cost_usd", [float("nan"), -1.0, float("inf")])
def test_a_cost_wish_that_is_no_amount_leaves_the_rules_limit(cost_usd: float) -> None:
    rule = allow(limits=RuleLimits(cost_usd=2.0))
    limits = decide_inbound(asks(cost_usd=cost_usd), inbound(rule)).limits
    assert limits is not None
    assert limits.cost_usd == 2.0


def test_of_several_rules_the_one_that_gives_most_is_applied() -> None:
    policy = inbound(
        allow(name="a", limits=RuleLimits(runtime_s=60)),
        allow(name="b", limits=RuleLimits(runtime_s=300)),
        allow(name="c", limits=RuleLimits(runtime_s=120)),
    )
    assert decide_inbound(asks(), policy).rule == "b"


@pytest.mark.parametrize(
    ("limits", "counts", "effect"),
    [
        (RuleLimits(concurrent=2), {"running": 1}, "allow"),
        (RuleLimits(concurrent=2), {"running": 2}, "deny"),
        (RuleLimits(per_day=5), {"today": 4}, "allow"),
        (RuleLimits(per_day=5), {"today": 5}, "deny"),
    ],
)
def test_a_reached_count_is_busy(limits: RuleLimits, counts: dict[str, int], effect: str) -> None:
    decision = decide_inbound(asks(**counts), inbound(allow(limits=limits)))
    assert decision.effect == effect
    assert decision.code == ("" if effect == "allow" else "busy")


def test_busy_is_said_only_when_waiting_helps() -> None:
    full = allow(name="full up", limits=RuleLimits(concurrent=1, per_day=1))
    other = allow(name="elsewhere", paths=("/srv/other",))
    request = asks(running=1, today=1)
    assert decide_inbound(request, inbound(other, full)).code == "busy"
    decision = decide_inbound(asks(running=1, today=1, runner="codex"), inbound(full))
    assert decision.code == "policy_denied"


def test_a_cost_limit_denies_a_runner_that_does_not_report_cost() -> None:
    rule = allow(limits=RuleLimits(cost_usd=5.0))
    decision = decide_inbound(asks(reports_cost=False), inbound(rule))
    assert [item.condition for item in decision.failed] == ["cost_usd"]
    assert decision.code == "policy_denied"


@pytest.mark.parametrize(
    ("value", "effect"),
    [
        pytest.param({}, "allow", id="narrows nothing"),
        pytest.param({"profiles": ["query"]}, "allow", id="has the profile"),
        pytest.param({"profiles": ["edit"]}, "deny", id="has another profile"),
        pytest.param({"runners": []}, "deny", id="has no runner"),
        pytest.param({"paths": ["/srv"]}, "allow", id="has a path above"),
        pytest.param({"paths": ["/srv/myapp/sub"]}, "deny", id="has a path below"),
        pytest.param({"paths": ["/srv/../"]}, "deny", id="has a path with dots"),
        pytest.param({"operations": ["sql_own"]}, "deny", id="has another operation"),
        pytest.param({"profile": ["query"]}, "deny", id="has an unknown key"),
        pytest.param({"profiles": "query"}, "deny", id="has text for a list"),
        pytest.param({"profiles": ["query", 1]}, "deny", id="has a number in a list"),
        pytest.param(["query"], "deny", id="is a list"),
        pytest.param("query", "deny", id="is text"),
        pytest.param(None, "deny", id="is null"),
    ],
)
def test_a_grants_value_narrows_the_rule(value: object, effect: str) -> None:
    policy = inbound(allow(peers=(grant(),)))
    assert decide_inbound(asks(identity=granted(value)), policy).effect == effect


def test_values_of_a_grant_add_up_but_are_not_mixed() -> None:
    one, two = {"runners": ["claude"], "profiles": ["edit"]}, {"paths": ["/srv"]}
    policy = inbound(allow(peers=(grant(),)))
    assert decide_inbound(asks(identity=granted(one, two)), policy).effect == "allow"
    two_narrow = {"runners": ["codex"]}
    assert decide_inbound(asks(identity=granted(one, two_narrow)), policy).effect == "deny"


def test_a_capability_without_values_grants_nothing() -> None:
    decision = decide_inbound(asks(identity=granted()), inbound(allow(peers=(grant(),))))
    assert [item.condition for item in decision.failed] == ["peer"]


def test_a_grant_does_not_narrow_a_peer_that_is_named_too() -> None:
    policy = inbound(allow(peers=(grant(), node())))
    identity = granted({"profiles": ["edit"]})
    assert decide_inbound(asks(identity=identity), policy).effect == "allow"


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ({"peers": (node(THIRD),)}, "allow"),
        ({"peers": (user(),)}, "deny"),
        ({"operations": (Operation.SQL_OWN,)}, "allow"),
        ({"operations": (Operation.TASK,)}, "deny"),
        ({"profiles": (Profile.EDIT,)}, "allow"),
        ({"runners": ("codex",)}, "allow"),
        ({"runners": ("claude", "codex")}, "deny"),
        ({"paths": ("/srv/other",)}, "allow"),
        ({"paths": ("/srv",)}, "deny"),
        ({"paths": ("/srv/myapp/secret",)}, "deny"),
        ({"paths": ("/srv/myap",)}, "allow"),
        ({"paths": ("/srv",), "runners": ("codex",)}, "allow"),
    ],
)
def test_a_deny_rule_holds_when_all_its_conditions_do(change: dict[str, Any], effect: str) -> None:
    assert decide_inbound(asks(), inbound(allow(), deny(**change))).effect == effect


@pytest.mark.parametrize(
    ("rule", "request_change"),
    [
        ({"peers": (user("bob@example.com"),)}, {"identity": who(user="")}),
        ({"peers": (user("bob@example.com"),)}, {"identity": who(user="tagged-devices")}),
        ({"peers": (tag(),)}, {"identity": who(user="")}),
        ({"profiles": (Profile.FULL,)}, {"profile": None}),
        ({"runners": ("codex",)}, {"runner": ""}),
        ({"paths": ("/etc",)}, {"directory": "/srv/myapp/../x"}),
    ],
)
def test_a_deny_rule_that_cannot_be_evaluated_denies(
    rule: dict[str, Any], request_change: dict[str, Any]
) -> None:
    decision = decide_inbound(asks(**request_change), inbound(allow(peers=(node(),)), deny(**rule)))
    assert (decision.effect, decision.rule) == ("deny", "never")
    assert [(item.rule, item.condition) for item in decision.failed] == [("never", "deny")]
    assert "cannot be evaluated" in decision.reason


def test_a_deny_rule_reads_peers_widely() -> None:
    foreign = who(shared=True, router=True)
    policy = inbound(allow(shared=True, router=True), deny(peers=(user(ALICE),)))
    assert decide_inbound(asks(identity=foreign), policy).rule == "never"
    policy = inbound(allow(), deny(peers=(grant(),)))
    capabilities: list[tuple[object, ...]] = [(), ("malformed",), ({"profiles": []},)]
    for values in capabilities:
        assert decide_inbound(asks(identity=granted(*values)), policy).rule == "never"


def test_a_deny_rule_about_runs_does_not_concern_sql() -> None:
    request = asks(operation=Operation.SQL_OWN, profile=None, runner="", directory="")
    sql = allow(operations=(Operation.SQL_OWN,))
    assert decide_inbound(request, inbound(sql, deny(paths=("/srv",)))).effect == "allow"
    assert decide_inbound(request, inbound(sql, deny())).effect == "deny"


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param((WORKER,), id="through this node"),
        pytest.param((WORKER, THIRD, LAPTOP), id="from this node"),
        pytest.param((LAPTOP, THIRD), id="the caller twice"),
        pytest.param((THIRD, "nFOURTH", THIRD), id="another twice"),
    ],
)
def test_a_chain_in_a_circle_is_refused(chain: tuple[str, ...]) -> None:
    policy = inbound(allow(operations=(Operation.TASK, Operation.DELEGATE)))
    decision = decide_inbound(asks(chain=chain), policy)
    assert (decision.effect, decision.code) == ("deny", "policy_denied")
    assert [item.condition for item in decision.failed] == ["chain"]


def test_a_node_does_not_delegate_to_itself() -> None:
    decision = decide_inbound(asks(self_id=LAPTOP), inbound(allow()))
    assert [item.condition for item in decision.failed] == ["chain"]


def test_a_chain_has_at_most_four_callers() -> None:
    policy = inbound(allow(operations=(Operation.TASK, Operation.DELEGATE)))
    assert decide_inbound(asks(chain=("n1", "n2", "n3")), policy).effect == "allow"
    assert decide_inbound(asks(chain=("n1", "n2", "n3", LAPTOP)), policy).effect == "allow"
    decision = decide_inbound(asks(chain=("n1", "n2", "n3", "n4")), policy)
    assert [item.condition for item in decision.failed] == ["chain"]


def test_only_a_rule_with_delegate_takes_a_task_from_further_away() -> None:
    assert decide_inbound(asks(chain=(LAPTOP,)), inbound(allow())).effect == "allow"
    decision = decide_inbound(asks(chain=(THIRD, LAPTOP)), inbound(allow()))
    assert [item.condition for item in decision.failed] == ["delegate"]


def test_the_nearest_rule_comes_first_with_every_condition() -> None:
    far = allow(name="a far one", peers=(node(THIRD),), paths=("/x",), runners=("codex",))
    near = allow(name="z near one", paths=("/x",), runners=("codex",))
    decision = decide_inbound(asks(), inbound(far, near))
    assert [(item.rule, item.condition) for item in decision.failed] == [
        ("z near one", "runner"),
        ("z near one", "path"),
        ("a far one", "peer"),
        ("a far one", "runner"),
        ("a far one", "path"),
    ]


def test_of_equally_near_rules_the_one_about_the_peer_comes_first() -> None:
    others = allow(name="a", peers=(node(THIRD),), paths=("/etc",))
    mine = allow(name="z")
    decision = decide_inbound(asks(directory="/etc"), inbound(others, mine))
    assert [item.rule for item in decision.failed] == ["z", "a"]


def test_a_request_without_a_runner_is_never_a_run() -> None:
    assert decide_inbound(asks(runner=""), inbound(allow(runners=("",)))).effect == "deny"


def test_on_revoke_is_the_rules() -> None:
    assert decide_inbound(asks(), inbound(allow(on_revoke="stay"))).on_revoke == "stay"
