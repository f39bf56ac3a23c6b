"""The owner's profiles: read, refused when they would widen, and put under a request."""

from typing import Any

import pytest

from cmesh.model import Operation, Profile
from cmesh.policy.decide import decide_inbound, may
from cmesh.policy.explain import explain, for_remote, narrowing
from cmesh.policy.mistakes import PolicyError
from cmesh.policy.parse import parse_policy
from cmesh.policy.profiles import BUILT_IN, NamedProfile, ProfileLimits
from cmesh.policy.rules import FULL_CONSENT, Policy
from tests.unit.policy.support import allow, asks, deny, inbound, who

SMALL = ProfileLimits(memory_mib=8192, processes=512, open_files=4096, file_mib=1024, disk_mib=4096)
LARGE = ProfileLimits(
    memory_mib=16384, processes=2048, open_files=16384, file_mib=8192, disk_mib=16384
)
DOCS = NamedProfile(name="docs", base=Profile.QUERY, read=("docs",), limits=SMALL)


def policy(profiles: dict[str, Any], *named: str, **more: Any) -> Policy:
    rule = {
        "name": "r",
        "peers": ["node:nLAPTOP"],
        "operations": ["task"],
        "profiles": list(named) or list(profiles),
        "runners": ["claude"],
        "paths": ["/srv/myapp"],
        **more,
    }
    return parse_policy({"profiles": profiles, "inbound": {"allow": [rule]}})


def one(**table: Any) -> NamedProfile:
    (rule,) = policy({"mine": table}).inbound
    (profile,) = rule.narrowed
    return profile


def test_the_built_in_profiles_are_these() -> None:
    assert dict(BUILT_IN) == {
        Profile.QUERY: NamedProfile(name="query", base=Profile.QUERY, limits=SMALL),
        Profile.EDIT: NamedProfile(name="edit", base=Profile.EDIT, limits=SMALL),
        Profile.BUILD: NamedProfile(name="build", base=Profile.BUILD, limits=LARGE),
        Profile.FULL: NamedProfile(name="full", base=Profile.FULL, limits=None),
    }
    for profile in BUILT_IN.values():
        assert (profile.read, profile.write, profile.hosts) == ((), (), ())


def test_a_profile_that_says_nothing_is_its_base_under_another_name() -> None:
    assert one(base="query") == NamedProfile(name="mine", base=Profile.QUERY, limits=SMALL)
    assert one(base="build") == NamedProfile(name="mine", base=Profile.BUILD, limits=LARGE)


def test_a_profile_is_taken_apart() -> None:
    limits = {"memory_mib": 64, "processes": 1, "open_files": 16, "file_mib": 1, "disk_mib": 1}
    made = one(
        base="build",
        read=["./src/", "docs//api", "a"],
        write=["src/out", "a"],
        hosts=["pypi.org", "x-1.example.com"],
        limits=limits,
    )
    assert made == NamedProfile(
        name="mine",
        base=Profile.BUILD,
        read=("src", "docs/api", "a"),
        write=("src/out", "a"),
        hosts=("pypi.org", "x-1.example.com"),
        limits=ProfileLimits(**limits),
    )
    assert one(base="edit", write=["out"]).write == ("out",)
    part = one(base="query", limits={"processes": 7}).limits
    assert part == ProfileLimits(
        memory_mib=8192, processes=7, open_files=4096, file_mib=1024, disk_mib=4096
    )


MINE = "profiles.mine"
BELOW = "relative to the task's directory, without `..`"


@pytest.mark.parametrize(
    ("table", "key", "expected"),
    [
        ({}, f"{MINE}.base", "expected this key"),
        ({"base": "full"}, f"{MINE}.base", 'one of "query", "edit" or "build"'),
        ({"base": "docs"}, f"{MINE}.base", 'one of "query", "edit" or "build"'),
        ({"base": "query", "wirte": []}, f"{MINE}.wirte", "did you mean `write`?"),
        (
            {"base": "query", "hosts": ["pypi.org"]},
            f"{MINE}.hosts",
            "`query` reaches the model only; expected no hosts, or base `build`",
        ),
        ({"base": "edit", "hosts": ["pypi.org"]}, f"{MINE}.hosts", "`edit` reaches the model only"),
        (
            {"base": "query", "write": ["a"]},
            f"{MINE}.write",
            "`query` writes nothing; expected no paths, or base `edit` or `build`",
        ),
        ({"base": "query", "read": []}, f"{MINE}.read", "at least 1 item"),
        ({"base": "query", "read": ["/etc"]}, f"{MINE}.read[0]", BELOW),
        ({"base": "query", "read": ["a", "~/x"]}, f"{MINE}.read[1]", BELOW),
        ({"base": "query", "read": ["a/../.."]}, f"{MINE}.read[0]", BELOW),
        ({"base": "query", "read": ["a\0"]}, f"{MINE}.read[0]", BELOW),
        ({"base": "query", "read": ["a"] * 33}, f"{MINE}.read", "at most 32 items"),
        ({"base": "edit", "read": ["a/.git/x"]}, f"{MINE}.read[0]", "no copy has"),
        ({"base": "build", "write": [".git"]}, f"{MINE}.write[0]", "no copy has"),
        (
            {"base": "query", "read": ["./"]},
            f"{MINE}.read[0]",
            "expected a path below the task's directory; left out means all of it",
        ),
        ({"base": "edit", "write": ["../x"]}, f"{MINE}.write[0]", BELOW),
        (
            {"base": "edit", "read": ["src"], "write": ["src/x", "srcx"]},
            f"{MINE}.write[1]",
            "expected a path at or below one of `read`",
        ),
        ({"base": "build", "hosts": ["10.0.0.1"]}, f"{MINE}.hosts[0]", "no address"),
        ({"base": "build", "hosts": ["[::1]"]}, f"{MINE}.hosts[0]", "no address"),
        ({"base": "build", "hosts": ["localhost"]}, f"{MINE}.hosts[0]", "whole host name"),
        ({"base": "build", "hosts": ["*.pypi.org"]}, f"{MINE}.hosts[0]", "whole host name"),
        ({"base": "build", "hosts": ["pypi.org."]}, f"{MINE}.hosts[0]", "whole host name"),
        ({"base": "build", "hosts": ["PyPI.org"]}, f"{MINE}.hosts[0]", "lower case"),
        (
            {"base": "query", "limits": {"memory_mib": 8193}},
            f"{MINE}.limits.memory_mib",
            "expected at most 8192, which `query` has",
        ),
        (
            {"base": "edit", "limits": {"processes": 513}},
            f"{MINE}.limits.processes",
            "expected at most 512, which `edit` has",
        ),
        ({"base": "build", "limits": {"open_files": 16385}}, f"{MINE}.limits.open_files", "16384"),
        ({"base": "build", "limits": {"file_mib": 8193}}, f"{MINE}.limits.file_mib", "8192"),
        ({"base": "query", "limits": {"memory_mib": 63}}, f"{MINE}.limits.memory_mib", "least 64"),
        ({"base": "query", "limits": {"processes": 0}}, f"{MINE}.limits.processes", "least 1"),
        ({"base": "query", "limits": {"open_files": 15}}, f"{MINE}.limits.open_files", "least 16"),
        ({"base": "edit", "limits": {"disk_mib": 4097}}, f"{MINE}.limits.disk_mib", "4096"),
        ({"base": "query", "limits": {"file_mib": 0}}, f"{MINE}.limits.file_mib", "least 1"),
    ],
)
def test_what_would_widen_or_makes_no_sense_is_refused_by_key(
    table: dict[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        policy({"mine": table})
    assert refused.value.key == key
    assert expected in refused.value.expected


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        (
            "query",
            "profiles.query",
            "is built in; expected another name, with this one as its `base`",
        ),
        ("full", "profiles.full", "is built in"),
        ("Docs", "profiles.Docs", "lower-case letters, digits and hyphens, at most 32"),
        ("1", "profiles.1", "lower-case letters"),
        ("a" * 33, f"profiles.{'a' * 33}", "at most 32"),
    ],
)
def test_a_name_is_short_and_not_a_built_in_one(name: str, key: str, expected: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policy({name: {"base": "query"}})
    assert refused.value.key == key
    assert expected in refused.value.expected


def test_a_rule_names_profiles_that_there_are_and_one_of_each_base() -> None:
    own = {"docs": {"base": "query"}, "more": {"base": "query"}, "out": {"base": "edit"}}
    (rule,) = policy(own, "docs", "edit", "build").inbound
    assert rule.profiles == (Profile.EDIT, Profile.BUILD)
    assert [profile.name for profile in rule.narrowed] == ["docs"]
    assert rule.bases == (Profile.EDIT, Profile.BUILD, Profile.QUERY)
    assert rule.profile_names == ("edit", "build", "docs")
    for names, expected in (
        (("docs", "more"), "`docs` is asked for as `query` too; give it another rule"),
        (("query", "docs"), "`query` is asked for as `query` too"),
        (("out", "edit"), "`out` is asked for as `edit` too"),
    ):
        with pytest.raises(PolicyError) as refused:
            policy(own, *names)
        assert refused.value.key == "inbound.allow[0].profiles[1]"
        assert expected in refused.value.expected
    with pytest.raises(PolicyError) as refused:
        policy(own, "edit", "dosc")
    assert refused.value.key == "inbound.allow[0].profiles[1]"
    assert refused.value.expected == (
        'expected one of "query", "edit", "build", "full", "docs", "more", "out";'
        " did you mean `docs`?"
    )
    with pytest.raises(PolicyError, match='"full"'):
        policy({}, "zzz")


def test_full_is_never_beside_a_profile_of_the_owner() -> None:
    own = {"docs": {"base": "query"}}
    with pytest.raises(PolicyError, match="expected `full` alone"):
        policy(own, "full", "docs", consent=FULL_CONSENT)


@pytest.mark.parametrize("key", ["deny"])
def test_rules_about_what_is_asked_for_know_the_built_in_words_only(key: str) -> None:
    own = {"docs": {"base": "query"}}
    rule = {"name": "n", "peers": ["*"], "profiles": ["docs"]}
    for direction, effect in (("inbound", key), ("outbound", key), ("outbound", "allow")):
        with pytest.raises(PolicyError) as refused:
            parse_policy({"profiles": own, direction: {effect: [rule]}})
        assert refused.value.key == f"{direction}.{effect}[0].profiles[0]"


def test_a_request_for_the_base_is_narrowed_and_the_other_side_does_not_learn_how() -> None:
    rules = inbound(allow(profiles=(), narrowed=(DOCS,)))
    decision = decide_inbound(asks(), rules)
    assert (decision.effect, decision.profile) == ("allow", DOCS)
    said = explain(decision, asks())
    at = said.index("profile: query, narrowed to docs")
    assert said[at + 1 :] == ["    sees of the directory: docs"]
    assert for_remote(decision).profile is None
    assert "docs" not in str(for_remote(decision))
    assert may(who(), rules).profiles == (Profile.QUERY,)
    assert decide_inbound(asks(profile=Profile.EDIT), rules).effect == "deny"
    assert decide_inbound(asks(profile=Profile.EDIT), rules).failed[0].wanted == "docs"
    assert decide_inbound(asks(), inbound(allow(narrowed=(DOCS,)), deny())).profile is None


def test_a_whole_profile_comes_before_a_narrowed_one_but_after_no_question() -> None:
    narrow = allow(name="a", profiles=(), narrowed=(DOCS,))
    whole = allow(name="b")
    decision = decide_inbound(asks(), inbound(narrow, whole))
    assert (decision.rule, decision.profile) == ("b", BUILT_IN[Profile.QUERY])
    assert not any("narrowed" in line for line in explain(decision, asks()))
    decision = decide_inbound(asks(), inbound(narrow, allow(name="b", approval="ask")))
    assert (decision.effect, decision.rule) == ("allow", "a")


def test_sql_runs_under_no_profile() -> None:
    rule = allow(operations=(Operation.SQL_OWN,))
    request = asks(operation=Operation.SQL_OWN, profile=None, runner="", directory="")
    decision = decide_inbound(request, inbound(rule))
    assert (decision.effect, decision.profile) == ("allow", None)


def test_the_digest_is_as_before_without_profiles_of_the_owner_and_another_with_them() -> None:
    assert inbound(allow()).sha256 == (
        "e8c49f4350691abaa5062574f074610832b68c170af9ff5e1a0c88adbaacc612"
    )
    assert inbound(allow(narrowed=(DOCS,))).sha256 != inbound(allow()).sha256


def test_the_smallest_change_keeps_the_profiles_that_are_there() -> None:
    request = asks(profile=Profile.EDIT)
    decision = decide_inbound(request, inbound(allow(profiles=(), narrowed=(DOCS,))))
    assert 'profiles = ["docs", "edit"]' in decision.change


def test_the_owner_is_told_what_a_profile_takes_away() -> None:
    own = one(
        base="build",
        read=["src", "docs"],
        write=["src"],
        hosts=["pypi.org"],
        limits={"processes": 7},
    )
    assert narrowing(own) == [
        "sees of the directory: src, docs",
        "may write of its copy: src",
        "may reach: pypi.org",
        "limits: memory_mib 16384, processes 7, open_files 16384, file_mib 8192, disk_mib 16384",
    ]
    assert narrowing(BUILT_IN[Profile.BUILD]) == []
