"""The change a decision proposes, pasted into the rules, allows the request."""

import copy
import json
import re
import tomllib
from typing import Any

import pytest

from cmesh.model import Operation, Profile
from cmesh.policy.decide import InboundRequest, OutboundRequest, decide_inbound, decide_outbound
from cmesh.policy.parse import parse_policy
from cmesh.policy.rules import FULL_CONSENT
from tests.unit.policy.support import THIRD, WORKER, asks, granted, sends, who

RULE: dict[str, Any] = {
    "name": 'the "first" rule',
    "peers": ["node:nLAPTOP", "grant:build"],
    "operations": ["task"],
    "profiles": ["query"],
    "runners": ["claude"],
    "paths": ["/srv/myapp"],
    "accept": ["make test"],
    "limits": {"runtime": "15m", "concurrent": 2, "per_day": 5, "cost_usd": 5.0},
}
FULL: dict[str, Any] = {
    **RULE,
    "name": "full rule",
    "profiles": ["full"],
    "consent": FULL_CONSENT,
    "paths": ["/full"],
}
OUT_RULE: dict[str, Any] = {
    "name": "ask the worker",
    "peers": ["node:nWORKER"],
    "profiles": ["query"],
    "runners": ["claude"],
    "repos": ["/home/alice/src/myapp"],
    "prompt_bytes": 200,
}


def paste(raw: dict[str, Any], change: str) -> dict[str, Any]:
    """Do to the rules what the change says, as its reader would."""
    raw = copy.deepcopy(raw)
    head, _, lines = change.partition("\n")
    if head.endswith("add to config.toml"):
        for direction, effects in tomllib.loads(lines).items():
            raw.setdefault(direction, {}).setdefault("allow", []).extend(effects["allow"])
        return raw
    found = re.search(r"in the \[\[(\w+)\.allow]] rule (\".*\") set$", head)
    assert found, change
    (rule,) = [r for r in raw[found[1]]["allow"] if r["name"] == json.loads(found[2])]
    rule.update(tomllib.loads(lines))
    return raw


@pytest.mark.parametrize("rules", [(), (RULE,), (RULE, FULL)], ids=["none", "one", "two"])
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(asks(identity=who(node_id=THIRD)), id="another node"),
        pytest.param(asks(identity=who(shared=True)), id="a foreign node"),
        pytest.param(asks(identity=who(router=True)), id="a router"),
        pytest.param(asks(identity=who(node_id=THIRD, router=True, shared=True)), id="all three"),
        pytest.param(asks(identity=granted({"profiles": []}, node_id=THIRD)), id="a narrow grant"),
        pytest.param(asks(operation=Operation.FOLLOW_UP), id="operation"),
        pytest.param(asks(operation=Operation.SQL_ALL, profile=None, runner=""), id="sql"),
        pytest.param(asks(profile=Profile.EDIT, runner="command:x"), id="profile and runner"),
        pytest.param(asks(profile=Profile.FULL), id="full"),
        pytest.param(asks(directory="/full"), id="the path of the full rule"),
        pytest.param(asks(directory='/srv/o "ther" \\n'), id="a path that needs quotes"),
        pytest.param(asks(accept=("make", "a b", "it's")), id="an acceptance command"),
        pytest.param(asks(chain=(WORKER, THIRD), self_id="nME"), id="a chain"),
        pytest.param(asks(running=7, today=9), id="busy"),
        pytest.param(asks(reports_cost=False), id="no cost reported"),
        pytest.param(
            asks(identity=who(node_id=THIRD, name="x" * 300), directory="/o"), id="other and path"
        ),
    ],
)
def test_the_inbound_change_allows_the_request(
    rules: tuple[dict[str, Any], ...], request_: InboundRequest
) -> None:
    raw: dict[str, Any] = {"inbound": {"allow": [*rules]}}
    decision = decide_inbound(request_, parse_policy(raw))
    if decision.effect == "allow":
        assert not decision.change
        return
    after = decide_inbound(request_, parse_policy(paste(raw, decision.change)))
    assert after.effect == "allow", decision.change


@pytest.mark.parametrize("rules", [(), (OUT_RULE,)], ids=["none", "one"])
@pytest.mark.parametrize(
    "request_",
    [
        sends(identity=who(node_id=THIRD)),
        sends(identity=who(node_id=THIRD, shared=True), profile=Profile.EDIT),
        sends(profile=Profile.BUILD),
        sends(runner="codex"),
        sends(project="/home/alice/other"),
        sends(project=""),
        sends(sends_changes=True, prompt_bytes=201),
    ],
)
def test_the_outbound_change_allows_the_request(
    rules: tuple[dict[str, Any], ...], request_: OutboundRequest
) -> None:
    raw: dict[str, Any] = {"outbound": {"allow": [*rules]}}
    decision = decide_outbound(request_, parse_policy(raw))
    if decision.effect == "allow":
        return
    after = decide_outbound(request_, parse_policy(paste(raw, decision.change)))
    assert after.effect == "allow", decision.change


def test_only_the_failing_key_of_the_nearest_rule_is_changed() -> None:
    raw = {"inbound": {"allow": [RULE]}}
    decision = decide_inbound(asks(directory="/srv/other"), parse_policy(raw))
    assert decision.change.splitlines() == [
        'in the [[inbound.allow]] rule "the \\"first\\" rule" set',
        'paths = ["/srv/myapp", "/srv/other"]',
    ]


def test_a_deny_rule_is_named_before_what_else_is_missing() -> None:
    raw: dict[str, Any] = {"inbound": {"deny": [{"name": "never", "peers": ["*"]}]}}
    change = decide_inbound(asks(), parse_policy(raw)).change
    assert change.startswith('narrow or remove the [[inbound.deny]] rule "never", then add')
    raw["inbound"]["allow"] = [RULE]
    change = decide_inbound(asks(), parse_policy(raw)).change
    assert change == 'narrow or remove the [[inbound.deny]] rule "never"'


def test_a_busy_peer_is_first_told_to_wait() -> None:
    raw = {"inbound": {"allow": [RULE]}}
    change = decide_inbound(asks(running=2), parse_policy(raw)).change
    assert change.startswith("wait for a task of this peer to end, or in the")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (asks(directory="../x"), "absolute directory"),
        (asks(profile=None), "a profile and a runner"),
        (asks(operation=Operation.ACCEPT), "acceptance command"),
        (asks(cost_usd=1.0, reports_cost=False), "without a cost limit"),
        (asks(identity=who(expired=True)), "cmesh login"),
        (asks(chain=(WORKER,)), "no rule can allow this"),
    ],
)
def test_what_no_rule_can_allow_asks_for_another_request(
    request_: InboundRequest, words: str
) -> None:
    change = decide_inbound(request_, parse_policy({"inbound": {"allow": [RULE]}})).change
    assert words in change
    assert "[[" not in change


def test_remote_text_in_a_change_cannot_leave_its_string() -> None:
    nasty = '/srv/x"]\n[[inbound.allow]]\nname = "evil\x1b[2J\x7f\u202e'
    raw = {"inbound": {"allow": [RULE]}}
    change = decide_inbound(asks(directory=nasty, runner='c"]\nx'), parse_policy(raw)).change
    assert not set(change) & {"\x1b", "\x7f", "\u202e"}
    assert len(change.splitlines()) == 3
    rules = tomllib.loads("\n".join(change.splitlines()[1:]))
    assert set(rules) == {"paths", "runners"}
