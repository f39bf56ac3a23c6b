"""What people read of a decision, word for word: the answer is no use if it names another rule.

Each line here is printed by `cmesh policy explain`, told to the other side, or pasted into a file.
"""

from dataclasses import replace
from typing import Any

import pytest

from cmesh.model import Identity, Limits, Operation, Profile
from cmesh.policy.decide import decide_inbound, decide_outbound, may
from cmesh.policy.explain import explain, for_remote
from cmesh.policy.match import denies_peer
from cmesh.policy.mistakes import PolicyError
from cmesh.policy.parse import parse_policy
from cmesh.policy.request import Failed, Held
from cmesh.policy.rules import InboundRule, Policy, RuleLimits, Selector
from tests.unit.policy.support import (
    ALICE,
    THIRD,
    allow,
    asks,
    deny,
    grant,
    granted,
    inbound,
    node,
    out_allow,
    out_deny,
    outbound,
    sends,
    tag,
    user,
    who,
)

TAGGED = who(user="", tags=("tag:a", "tag:b"))


@pytest.mark.parametrize(
    ("identity", "facts"),
    [
        (who(), "alice@example.com, node:nLAPTOP"),
        (TAGGED, "tag:a, tag:b, node:nLAPTOP"),
        (who(user=""), "no user, node:nLAPTOP"),
        (
            who(expired=True, shared=True, router=True, ephemeral=True),
            (
                "alice@example.com, node:nLAPTOP, expired, of another tailnet, advertises routes,"
                " ephemeral"
            ),
        ),
    ],
)
def test_the_question_says_who_asks(identity: Identity, facts: str) -> None:
    request = asks(identity=identity)
    first = explain(decide_inbound(request, Policy.of()), request)[0]
    assert first.startswith(f"inbound: laptop.tail.example ({facts}) asks for task, profile query")


@pytest.mark.parametrize(
    ("identity", "got"),
    [
        (who(node_id=THIRD), "node:nTHIRD, alice@example.com"),
        (replace(TAGGED, node_id=THIRD), "node:nTHIRD, tag:a tag:b"),
        (who(node_id=THIRD, user=""), "node:nTHIRD, no user"),
        (who(node_id=THIRD, shared=True), "node:nTHIRD, alice@example.com (by node id only)"),
        (who(node_id=THIRD, router=True), "node:nTHIRD, alice@example.com (by node id only)"),
    ],
)
def test_a_peer_that_does_not_fit_is_told_in_both_directions(identity: Identity, got: str) -> None:
    first = decide_inbound(asks(identity=identity), inbound(allow())).failed[0]
    assert first == Failed(rule="laptop may ask", condition="peer", wanted="node:nLAPTOP", got=got)
    first = decide_outbound(sends(identity=identity), outbound(out_allow())).failed[0]
    assert first == Failed(rule="ask the worker", condition="peer", wanted="node:nWORKER", got=got)


def test_each_outbound_condition_names_its_rule_and_both_sides_of_it() -> None:
    rule = out_allow(runners=("claude",), repos=("/home/alice/src/myapp",), prompt_bytes=99)
    request = sends(profile=Profile.FULL, runner="codex", project="/x", sends_changes=True)
    found = decide_outbound(request, outbound(rule)).failed
    assert {item.rule for item in found} == {"ask the worker"}
    assert [(item.condition, item.wanted, item.got) for item in found] == [
        ("profile", "query", "full"),
        ("runner", "claude", "codex"),
        ("repo", "/home/alice/src/myapp", "/x"),
        ("send_changes", "no changes", "changes"),
        ("prompt_bytes", "at most 99 bytes", "100 bytes"),
    ]


def test_an_answer_that_allows_says_by_which_rule() -> None:
    assert decide_outbound(sends(), outbound(out_allow())).reason == (
        "rule `ask the worker` allows it"
    )
    decided = decide_inbound(asks(), inbound(allow(approval="ask")))
    assert decided.reason == "rule `laptop may ask` asks this node's owner first"


def test_a_deny_rule_is_named_and_what_it_lacks() -> None:
    assert decide_outbound(sends(), outbound(out_allow(), out_deny())).reason == (
        "rule `never` denies it"
    )
    decided = decide_inbound(asks(identity=who(user="")), inbound(deny(peers=(user(),))))
    assert decided.failed == (
        Failed(rule="never", condition="deny", wanted="an answer", got="not enough is known"),
    )
    assert decided.reason == "deny rule `never` cannot be evaluated, so it denies"


def test_what_no_rule_can_change_is_told_without_a_rule() -> None:
    request = asks(identity=who(expired=True))
    decided = decide_inbound(request, inbound(allow()))
    assert decided.change == "run `cmesh login` on the machine whose key expired"
    assert decided.reason == "the peer's node key has expired"
    assert "always: key: wanted a valid node key, got the node key has expired" in explain(
        decided, request
    )


HELD = Held(
    may_delegate=True,
    profile=Profile.QUERY,
    runners=("claude",),
    directory="/home/alice/src/myapp",
    limits=Limits(runtime_s=60, output_bytes=1_000, cost_usd=None),
)


@pytest.mark.parametrize(
    ("held", "project", "wanted", "got"),
    [
        (
            replace(HELD, may_delegate=False),
            "/home/alice/src/myapp",
            "a task whose caller may delegate",
            "one whose caller may not",
        ),
        (HELD, "/etc", "a directory at or below the task's own", "/etc"),
        (HELD, "", "a directory at or below the task's own", "none"),
        (
            replace(HELD, limits=replace(HELD.limits, runtime_s=0)),
            "/home/alice/src/myapp",
            "time, money, turns and tokens left to the task",
            "none left",
        ),
    ],
)
def test_a_task_that_hands_on_too_much_is_told_what_it_has(
    held: Held, project: str, wanted: str, got: str
) -> None:
    decided = decide_outbound(sends(held=held, project=project), outbound(out_allow()))
    assert [(item.condition, item.wanted, item.got) for item in decided.failed] == [
        ("held", wanted, got)
    ]


def test_a_task_with_one_second_left_may_still_ask() -> None:
    held = replace(HELD, limits=replace(HELD.limits, runtime_s=1))
    assert decide_outbound(sends(held=held), outbound(out_allow())).effect == "allow"


def test_the_other_side_is_told_so_much_and_no_more() -> None:
    nothing = for_remote(decide_inbound(asks(), Policy.of()))
    assert nothing.reason == "the other node's policy denies it"
    assert nothing.change == (
        "the owner of the other machine sees why with `cmesh policy explain` there"
    )
    two = for_remote(decide_inbound(asks(directory="/x", runner="codex"), inbound(allow())))
    assert two.reason == "the other node's policy denies it (runner `codex`, path)"
    expired = for_remote(decide_inbound(asks(identity=who(expired=True)), Policy.of()))
    assert expired.reason == "the asking node's key has expired"
    assert expired.change == "run `cmesh login` on the asking machine"
    rule = allow(limits=RuleLimits(concurrent=1))
    busy = for_remote(decide_inbound(asks(running=1), inbound(rule)))
    assert busy.change == "wait for a running task to end, then retry"


def test_a_limit_that_a_runner_does_not_tell_is_told_with_what_helps() -> None:
    asked = asks(turns=3, tokens=9, cost_usd=1.0, reports=frozenset(), reports_cost=False)
    told = for_remote(decide_inbound(asked, inbound(allow())))
    assert told.reason == (
        "the other node's policy denies it (cost_usd, turns, tokens): this runner does not tell its"
        " cost and turns and tokens, so no limit of that can be held"
    )
    assert told.change.startswith("ask without that limit")
    # Beside anything else only the kinds are told, as before.
    more = for_remote(decide_inbound(replace(asked, directory="/x"), inbound(allow())))
    assert more.reason == "the other node's policy denies it (path, cost_usd, turns, tokens)"


def test_the_owner_is_told_the_words_that_were_asked_for() -> None:
    decided = decide_inbound(asks(directory="/x", runner="cluade"), inbound(allow()))
    assert decided.reason.endswith("fails on runner `cluade`, path")


def test_an_allowed_peer_is_told_nothing_of_what_failed_elsewhere() -> None:
    decided = decide_inbound(asks(), inbound(allow()))
    odd = replace(decided, failed=(Failed(rule="x", condition="x", wanted="", got=""),), change="x")
    assert (for_remote(odd).failed, for_remote(odd).change) == ((), "")


@pytest.mark.parametrize(
    ("identity", "peer", "known", "answer"),
    [
        (who(), user(), True, True),
        (who(user="bob@example.com"), user(), True, False),
        (who(), tag(), True, False),
        (TAGGED, tag("a"), True, True),
        (TAGGED, tag("c"), True, False),
        (TAGGED, user(), True, False),
        (who(user=""), user(), True, None),
        (who(user=""), tag(), True, None),
        (granted(), grant(), True, True),
        (granted(), grant(), False, True),
        (who(), grant(), True, False),
        (who(), grant(), False, None),
    ],
)
def test_whether_a_deny_rule_fits_is_yes_no_or_unknown(
    identity: Identity, peer: Selector, known: bool, answer: bool | None
) -> None:
    assert denies_peer(identity, [peer], grants_known=known) is answer


LIMITS = RuleLimits(runtime_s=900, concurrent=2, per_day=5, cost_usd=5.0, output_bytes=1_000)


@pytest.mark.parametrize(
    ("limits", "change", "line"),
    [
        (
            LIMITS,
            {"running": 7, "today": 9},
            (
                'limits = { runtime = "900s", concurrent = 8, per_day = 10, cost_usd = 5.0,'
                " output_bytes = 1000 }"
            ),
        ),
        (
            LIMITS,
            {"running": 0, "today": 5},
            (
                'limits = { runtime = "900s", concurrent = 2, per_day = 6, cost_usd = 5.0,'
                " output_bytes = 1000 }"
            ),
        ),
        (RuleLimits(concurrent=1), {"running": 1}, "limits = { concurrent = 2 }"),
        (RuleLimits(cost_usd=1.0), {"reports_cost": False}, "limits = {}"),
    ],
)
def test_limits_are_raised_just_enough(
    limits: RuleLimits, change: dict[str, Any], line: str
) -> None:
    decided = decide_inbound(asks(**change), inbound(allow(limits=limits)))
    assert decided.change.splitlines()[1:] == [line]


@pytest.mark.parametrize(
    ("name", "taken", "given"),
    [
        ("laptop.tail.example", (), "laptop: task"),
        ("laptop.tail.example", ("laptop: task",), "laptop: task 2"),
        ("laptop.tail.example", ("laptop: task", "laptop: task 2"), "laptop: task 3"),
        ("", (), "nLAPTOP: task"),
    ],
)
def test_a_new_rule_has_a_name_of_its_own(name: str, taken: tuple[str, ...], given: str) -> None:
    others = [deny(name=one, peers=(node("nNOBODY"),)) for one in taken]
    change = decide_inbound(asks(identity=who(name=name)), inbound(*others)).change
    assert change.splitlines()[:3] == [
        "add to config.toml",
        "[[inbound.allow]]",
        f'name = "{given}"',
    ]


OUT = out_allow(runners=("claude",), repos=("/home/alice/src/myapp",))
EDIT = 'in the [[outbound.allow]] rule "ask the worker" set'


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"identity": who(node_id=THIRD)}, [EDIT, 'peers = ["node:nWORKER", "node:nTHIRD"]']),
        (
            {"profile": Profile.EDIT, "runner": "codex"},
            [EDIT, 'profiles = ["query", "edit"]', 'runners = ["claude", "codex"]'],
        ),
        (
            {"identity": who(node_id=THIRD), "runner": "codex"},
            [
                "add to config.toml",
                "[[outbound.allow]]",
                'name = "laptop: ask"',
                'peers = ["node:nTHIRD"]',
                'profiles = ["query"]',
                'runners = ["codex"]',
                'repos = ["/home/alice/src/myapp"]',
            ],
        ),
    ],
)
def test_the_smaller_step_outbound_is_proposed(change: dict[str, Any], lines: list[str]) -> None:
    assert decide_outbound(sends(**change), outbound(OUT)).change.splitlines() == lines


def test_an_outbound_deny_rule_is_named_before_what_else_is_missing() -> None:
    change = decide_outbound(sends(), outbound(out_deny())).change
    first = 'narrow or remove the [[outbound.deny]] rule "never"'
    assert change.startswith(f"{first}, then add to config.toml\n")
    assert decide_outbound(sends(), outbound(out_allow(), out_deny())).change == first


DENY: dict[str, Any] = {
    "name": "never there",
    "peers": ["user:alice@example.com"],
    "operations": ["task"],
    "profiles": ["query"],
    "runners": ["claude"],
    "paths": ["/srv/secret"],
}


def test_a_deny_rule_is_taken_apart_whole() -> None:
    (rule,) = parse_policy({"inbound": {"deny": [DENY]}}).inbound
    assert rule == InboundRule(
        name="never there",
        effect="deny",
        peers=(Selector(kind="user", value=ALICE),),
        operations=(Operation.TASK,),
        profiles=(Profile.QUERY,),
        runners=("claude",),
        paths=("/srv/secret",),
    )


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize(
    ("key", "value", "at"),
    [
        ("name", "a\nb", ".name"),
        ("peers", ["laptop"], ".peers[0]"),
        ("runners", ["clause"], ".runners[0]"),
        ("paths", ["srv"], ".paths[0]"),
    ],
)
def test_a_mistake_in_a_deny_rule_is_found_where_it_stands(
    direction: str, key: str, value: object, at: str
) -> None:
    rule = {"name": "never", "peers": ["*"], key: value}
    if direction == "outbound" and key == "paths":
        rule = {"name": "never", "peers": ["*"], "repos": value}
        at = ".repos[0]"
    with pytest.raises(PolicyError) as caught:
        parse_policy({direction: {"deny": [rule]}})
    assert caught.value.key == f"{direction}.deny[0]{at}"


@pytest.mark.parametrize("flag", ["router", "shared"])
def test_a_flag_that_needs_node_ids_is_named(flag: str) -> None:
    rule = {**DENY, "peers": ["*"], flag: True}
    with pytest.raises(PolicyError) as caught:
        parse_policy({"inbound": {"allow": [rule]}})
    assert caught.value.expected.startswith(f"`{flag}` works for nodes named by `node:ID` only")


def test_what_a_grant_narrows_is_what_a_peer_is_told_it_may() -> None:
    rule = allow(
        peers=(grant(),),
        operations=(Operation.TASK, Operation.ARTIFACT),
        runners=("claude", "codex"),
    )
    told = may(granted({"operations": ["task"], "runners": ["codex"]}), inbound(rule))
    assert (told.operations, told.runners) == ((Operation.TASK,), ("codex",))
    assert told.paths == ("/srv/myapp",)


def test_of_rules_that_hold_the_one_that_gives_most_is_applied() -> None:
    poor = allow(name="a poor one", limits=RuleLimits(cost_usd=1.0))
    rich = allow(name="b rich one", limits=RuleLimits(cost_usd=2.0))
    assert decide_inbound(asks(), inbound(poor, rich)).rule == "b rich one"
    short = allow(name="a short one", limits=RuleLimits(output_bytes=10))
    long = allow(name="b long one", limits=RuleLimits(output_bytes=20))
    assert decide_inbound(asks(), inbound(short, long)).rule == "b long one"
