"""Each thing that a rule says is told in its sentences, for the owner who reads the policy page."""

from dataclasses import fields, replace

import pytest

from cmesh.model import Operation, Profile
from cmesh.policy.profiles import NamedProfile
from cmesh.policy.rules import InboundRule, OutboundRule, RuleLimits
from cmesh.policy.wording import inbound_words, outbound_words
from tests.unit.policy.support import ANY, allow, deny, grant, out_allow, out_deny, tag, user

MINE = NamedProfile(name="docs-only", base=Profile.QUERY, read=("docs",), limits=None)

CHANGED = {
    "peers": (user(), tag(), grant()),
    "operations": (Operation.TASK, Operation.SQL_ALL),
    "profiles": (Profile.QUERY, Profile.FULL),
    "narrowed": (MINE,),
    "runners": ("codex",),
    "paths": ("/srv/other",),
    "accept": (("make", "test it"),),
    "bind_ignored": ("node_modules",),
    "take_changes": True,
    "approval": "ask",
    "on_revoke": "stay",
    "router": True,
    "shared": True,
    "limits": RuleLimits(concurrent=2),
}
NOT_TOLD = {"name", "effect", "consent"}
"""The page shows these beside the sentences."""


def words(rule: InboundRule) -> str:
    told = inbound_words(rule)
    return " ".join([told.says, *told.more])


def test_an_allow_rule_says_who_may_do_what_and_where():
    told = inbound_words(
        allow(
            peers=(user(), tag()),
            operations=(Operation.TASK, Operation.FOLLOW_UP, Operation.ACCEPT),
            runners=("claude", "codex"),
            paths=("/srv/a", "/srv/b"),
        )
    )
    assert told.says == (
        "Devices of alice@example.com or devices tagged laptop may ask for tasks, go on with a"
        " conversation and name an acceptance command, with profile query, by claude or codex, in"
        " or below /srv/a or /srv/b."
    )
    assert told.more == ()


@pytest.mark.parametrize("name", [field.name for field in fields(InboundRule)])
def test_nothing_that_a_rule_says_is_left_out(name: str):
    if name in NOT_TOLD:
        return
    assert words(allow(**{name: CHANGED[name]})) != words(allow())


@pytest.mark.parametrize("name", [field.name for field in fields(RuleLimits)])
def test_every_limit_is_told(name: str):
    told = words(allow(limits=replace(RuleLimits(), **{name: 7})))
    assert "at most 7 " in told


def test_limits_are_told_in_the_units_people_use():
    limits = RuleLimits(runtime_s=900, output_bytes=2 * 1024 * 1024, cost_usd=5.0, per_day=50)
    assert inbound_words(allow(limits=limits)).more == (
        "A task has at most 15 minutes of run time, 5 USD and 2 MiB of output.",
        "A peer has at most 50 tasks a day.",
    )


def test_full_is_called_what_it_is():
    assert "no sandbox" in words(allow(profiles=(Profile.FULL,)))


def test_a_deny_rule_without_conditions_is_about_every_request():
    assert inbound_words(deny()).says == (
        "Every request of any peer is refused, whatever else allows it."
    )
    told = inbound_words(deny(profiles=(Profile.FULL,), paths=("/srv/secret",))).says
    assert "with profile full that reaches into /srv/secret" in told


@pytest.mark.parametrize("name", [field.name for field in fields(OutboundRule)])
def test_nothing_that_an_outbound_rule_says_is_left_out(name: str):
    changed = {
        "peers": (ANY,),
        "profiles": (Profile.EDIT,),
        "runners": ("codex",),
        "repos": ("/home/alice/src",),
        "send_changes": True,
        "prompt_bytes": 20_000,
    }
    if name not in NOT_TOLD:
        assert outbound_words(out_allow(**{name: changed[name]})) != outbound_words(out_allow())


def test_outbound_denials_and_empty_rules_say_what_they_come_to():
    assert outbound_words(out_deny()).says == "This machine asks any peer for no task."
    assert "allows nothing" in outbound_words(out_allow(profiles=())).says


def test_names_in_rules_cannot_break_out_of_their_sentence():
    told = inbound_words(allow(paths=("/srv/a\n\u202egnp.exe",)))
    assert "\n" not in told.says
    assert "\u202e" not in told.says
