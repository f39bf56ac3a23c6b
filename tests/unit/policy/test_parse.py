"""From tables to rules, and what is said about tables that make none."""

from typing import Any

import pytest

from cmesh.errors import ConfigError
from cmesh.model import Operation, Profile
from cmesh.policy.mistakes import PolicyError
from cmesh.policy.parse import parse_policy, parse_selector
from cmesh.policy.rules import FULL_CONSENT, Policy, RuleLimits, Selector

RULE: dict[str, Any] = {
    "name": "laptop may ask about myapp",
    "peers": ["node:nABC123", "user:me@example.com", "tag:laptop", "grant:cmesh", "*"],
    "operations": ["task", "follow_up"],
    "profiles": ["query"],
    "runners": ["claude", "command:deploy-check"],
    "paths": ["/srv/myapp/"],
    "accept": ["make test", "sh -c 'a b'"],
    "limits": {"runtime": "15m", "concurrent": 2, "per_day": 50, "cost_usd": 5},
}
OUT: dict[str, Any] = {"name": "ask", "peers": ["node:nXYZ789"], "profiles": ["query"]}
DROP = object()


def inbound(effect: str = "allow", **changes: Any) -> dict[str, Any]:
    base = RULE if effect == "allow" else {"name": "never", "peers": ["*"]}
    rule = {key: value for key, value in {**base, **changes}.items() if value is not DROP}
    return {"inbound": {effect: [rule]}}


def out(effect: str = "allow", **changes: Any) -> dict[str, Any]:
    base = OUT if effect == "allow" else {"name": "never", "peers": ["*"]}
    return {"outbound": {effect: [{**base, **changes}]}}


def test_no_tables_make_the_empty_policy() -> None:
    assert parse_policy({}) == Policy.of()


def test_a_rule_is_taken_apart() -> None:
    (rule,) = parse_policy(inbound()).inbound
    assert rule.peers == (
        Selector(kind="node", value="nABC123"),
        Selector(kind="user", value="me@example.com"),
        Selector(kind="tag", value="laptop"),
        Selector(kind="grant", value="cmesh"),
        Selector(kind="any", value=""),
    )
    assert [str(peer) for peer in rule.peers] == RULE["peers"]
    assert rule.operations == (Operation.TASK, Operation.FOLLOW_UP)
    assert rule.profiles == (Profile.QUERY,)
    assert rule.paths == ("/srv/myapp",)
    assert rule.accept == (("make", "test"), ("sh", "-c", "a b"))
    assert rule.limits == RuleLimits(runtime_s=900, concurrent=2, per_day=50, cost_usd=5.0)
    assert (rule.effect, rule.approval, rule.on_revoke) == ("allow", "never", "end")


def test_deny_and_outbound_rules_are_taken_apart() -> None:
    raw = inbound("deny", paths=["/etc"]) | out(repos=["/src"], prompt_bytes=9, send_changes=True)
    raw["outbound"]["deny"] = [{"name": "never", "peers": ["*"], "runners": ["gemini"]}]
    policy = parse_policy(raw)
    assert [(rule.effect, rule.paths) for rule in policy.inbound] == [("deny", ("/etc",))]
    first, second = policy.outbound
    assert (first.repos, first.prompt_bytes, first.send_changes) == (("/src",), 9, True)
    assert (second.effect, second.runners) == ("deny", ("gemini",))


def test_paths_go_through_the_callers_resolver() -> None:
    resolved = {"~/x": "/home/me/x", "/link": "/real"}
    raw = inbound(paths=["~/x", "/link"]) | out(repos=["~/x"])
    policy = parse_policy(raw, real_path=lambda text: resolved[text])
    assert policy.inbound[0].paths == ("/home/me/x", "/real")
    assert policy.outbound[0].repos == ("/home/me/x",)


def test_full_stands_alone_with_its_consent() -> None:
    (rule,) = parse_policy(inbound(profiles=["full"], consent=FULL_CONSENT)).inbound
    assert rule.profiles == (Profile.FULL,)


@pytest.mark.parametrize(
    ("raw", "key", "expected"),
    [
        (inbound(operatons=["task"]), "inbound.allow[0].operatons", "did you mean `operations`?"),
        (inbound(zzz=1), "inbound.allow[0].zzz", "known here: `name`, `peers`"),
        ({"inbond": {}}, "inbond", "did you mean `inbound`?"),
        (inbound(limits={"runtme": "1m"}), "inbound.allow[0].limits.runtme", "`runtime`"),
        (inbound(name=DROP), "inbound.allow[0].name", "expected this key"),
        (inbound(name="a\nb"), "inbound.allow[0].name", "one line"),
        (inbound(peers=[]), "inbound.allow[0].peers", "at least 1"),
        (inbound(peers=["*", 1]), "inbound.allow[0].peers[1]", "a string"),
        (inbound(peers="*"), "inbound.allow[0].peers", "a list"),
        (inbound(peers=["me@example.com"]), "inbound.allow[0].peers[0]", "`user:me@example.com`"),
        (inbound(peers=["laptop"]), "inbound.allow[0].peers[0]", "`node:ID`"),
        (inbound(peers=["host:x"]), "inbound.allow[0].peers[0]", "`node:ID`"),
        (inbound(peers=["user:*@example.com"]), "inbound.allow[0].peers[0]", "no wildcards"),
        (inbound(peers=["user:@example.com"]), "inbound.allow[0].peers[0]", "whole login"),
        (inbound(peers=["user:tagged-devices"]), "inbound.allow[0].peers[0]", "`tag:NAME`"),
        (inbound(peers=["node:"]), "inbound.allow[0].peers[0]", "node id"),
        (inbound(peers=["tag:tag:x"]), "inbound.allow[0].peers[0]", "`tag:laptop`"),
        (inbound(operations=["tasks"]), "inbound.allow[0].operations[0]", '"task"'),
        (inbound(operations=DROP), "inbound.allow[0].operations", "this key"),
        (inbound(profiles=[]), "inbound.allow[0].profiles", "operation `task` needs it"),
        (inbound(runners=DROP), "inbound.allow[0].runners", "operation `task` needs it"),
        (inbound(paths=DROP), "inbound.allow[0].paths", "operation `task` needs it"),
        (inbound(profiles=["all"]), "inbound.allow[0].profiles[0]", '"query", "edit"'),
        (inbound(profiles=["full", "query"]), "inbound.allow[0].profiles", "rule of its own"),
        (inbound(profiles=["full"]), "inbound.allow[0].consent", FULL_CONSENT),
        (inbound(consent=FULL_CONSENT), "inbound.allow[0].consent", "profile `full`"),
        (inbound(runners=["clause"]), "inbound.allow[0].runners[0]", "did you mean `claude`?"),
        (inbound(runners=["claude", "codexx"]), "inbound.allow[0].runners[1]", "`codex`?"),
        (inbound(runners=["Mine"]), "inbound.allow[0].runners[0]", "name of a manifest"),
        (inbound(runners=["a:b"]), "inbound.allow[0].runners[0]", "`command:NAME`"),
        (inbound(runners=["command"]), "inbound.allow[0].runners[0]", "`command:NAME`"),
        (inbound(runners=["command:a b"]), "inbound.allow[0].runners[0]", "`command:NAME`"),
        (inbound(paths=["srv"]), "inbound.allow[0].paths[0]", "absolute"),
        (inbound(paths=["/srv", "/srv/../x"]), "inbound.allow[0].paths[1]", "without `..`"),
        (inbound(accept=["make 'test"]), "inbound.allow[0].accept[0]", "closed quotes"),
        (inbound(accept=[" "]), "inbound.allow[0].accept[0]", "a command"),
        (inbound(approval="maybe"), "inbound.allow[0].approval", '"never" or "ask"'),
        (inbound(router="yes"), "inbound.allow[0].router", "true or false"),
        (inbound(peers=["*"], shared=True), "inbound.allow[0].peers", "`node:ID`"),
        (inbound(limits={"runtime": 15}), "inbound.allow[0].limits.runtime", '"15m"'),
        (inbound(limits={"runtime": "0m"}), "inbound.allow[0].limits.runtime", '"15m"'),
        (inbound(limits={"concurrent": 0}), "inbound.allow[0].limits.concurrent", "1"),
        (inbound(limits={"cost_usd": float("nan")}), "inbound.allow[0].limits.cost_usd", "finite"),
        (inbound("deny", profiles=[]), "inbound.deny[0].profiles", "at least 1"),
        (inbound("deny", approval="ask"), "inbound.deny[0].approval", "unknown key"),
        (out(peers=["grant:x"]), "outbound.allow[0].peers[0]", "inbound"),
        (out(repos=["~/x"]), "outbound.allow[0].repos[0]", "absolute"),
        (out(operations=["task"]), "outbound.allow[0].operations", "unknown key"),
        ({"inbound": {"allow": {}}}, "inbound.allow", "a list"),
        ({"inbound": []}, "inbound", "a table"),
    ],
)
def test_a_mistake_is_named_by_key_and_expectation(
    raw: dict[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(raw)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.key == key
    assert expected in caught.value.expected
    assert key in caught.value.message


def test_two_rules_of_a_direction_have_two_names() -> None:
    raw = inbound()
    raw["inbound"]["deny"] = [{"name": RULE["name"], "peers": ["*"]}]
    with pytest.raises(PolicyError) as caught:
        parse_policy(raw)
    assert caught.value.key == "inbound.deny[0].name"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("4h", 14_400), ("30d", 2_592_000)]
)
def test_durations_have_a_unit(text: str, seconds: int) -> None:
    (rule,) = parse_policy(inbound(limits={"runtime": text})).inbound
    assert rule.limits.runtime_s == seconds


def test_the_digest_is_of_content_not_of_order() -> None:
    other = {**RULE, "name": "other"}
    one = parse_policy({"inbound": {"allow": [RULE, other]}})
    two = parse_policy({"inbound": {"allow": [other, RULE]}})
    assert one.sha256 == two.sha256
    assert len(one.sha256) == 64
    changed = parse_policy({"inbound": {"allow": [{**RULE, "approval": "ask"}, other]}})
    assert changed.sha256 != one.sha256
    assert parse_policy(out()).sha256 != Policy.of().sha256


@pytest.mark.parametrize("text", ["", ":", "*x", "any", "node", "user:", "grant:a/b", "tag:1"])
def test_what_spells_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_selector(text)
