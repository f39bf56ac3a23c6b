"""What a slip of the fingers is, and what is another name."""

import pytest

from cmesh.nearest import did_you_mean, nearest

NAMES = ["builder", "laptop", "mac", "nas", "box", "claude", "codex", "gemini", "opencode"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("biulder", "builder"),
        ("buidler", "builder"),
        ("bulder", "builder"),
        ("builders", "builder"),
        ("Builder", "builder"),
        ("build", "builder"),
        ("labtop", "laptop"),
        ("amc", "mac"),
        ("bxo", "box"),
        ("claud", "claude"),
        ("cluade", "claude"),
        ("codx", "codex"),
        ("gemnii", "gemini"),
        ("open-code", "opencode"),
        ("no", None),
        ("worker", None),
        ("server", None),
        ("lapse", None),
        ("code-of-conduct", None),
        ("linux", None),
        ("x", None),
        ("", None),
    ],
)
def test_a_slip_is_near_and_another_name_is_not(typed: str, meant: str | None) -> None:
    assert nearest(typed, NAMES)[:1] == ([meant] if meant else [])


def test_what_two_names_begin_with_makes_them_no_more_alike() -> None:
    commands = ["command:held", "command:true"]
    assert nearest("command:nope", commands) == []
    assert nearest("command:treu", commands) == ["command:true"]
    assert nearest("comand:true", commands)[:1] == ["command:true"]


def test_names_are_told_nearest_first_and_each_once() -> None:
    assert nearest("ab", ["ba", "ab1", "ab", "ab"]) == ["ab", "ba", "ab1"]
    assert did_you_mean("cluade", NAMES, most=1) == "did you mean `claude`?"
    assert did_you_mean("worker", NAMES) == ""
