"""What is said after a denial rests on what the peer has told, and on nothing else."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cmesh.daemon.advice import SHOWN, needed_there, not_offered, offered_instead
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.protocol.link_messages import May

MAY = May(
    operations=("task",),
    profiles=(Profile.QUERY,),
    runners=("command:look", "claude"),
    paths=("/srv/app",),
)
SPEC = TaskSpec(
    task_id=TaskId("01900000-0000-7000-8000-000000000001"),
    runner="claude",
    profile=Profile.QUERY,
    directory="/srv/app/deploy",
    prompt="look",
    limits=Limits(runtime_s=60),
    not_after=datetime(2026, 1, 2, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runner": "codex"}, "runners `command:look`, `claude`"),
        ({"runner": "cluade"}, "runners `command:look`, `claude` (did you mean `claude`)"),
        ({"profile": Profile.FULL}, "profiles `query`"),
        ({"directory": "/srv/apple"}, "paths `/srv/app`"),
        ({"follows": TaskId("01900000-0000-7000-8000-000000000002")}, "operations `task`"),
    ],
)
def test_of_what_was_denied_the_offer_names_the_kind_that_is_wrong(
    change: dict[str, object], words: str
) -> None:
    asked = replace(SPEC, **change)
    assert offered_instead("box", MAY, asked) == f"ask for what `box` offers this node: {words}"
    assert words in needed_there("box", MAY, asked)


def test_nothing_is_said_where_nothing_was_told_or_nothing_is_wrong() -> None:
    assert offered_instead("box", May(), replace(SPEC, runner="codex")) == ""
    assert offered_instead("box", MAY, SPEC) == ""
    assert needed_there("box", MAY, SPEC) == ""
    assert needed_there("box", May(), SPEC) == ""


@pytest.mark.parametrize(
    ("path", "asked", "is_offered"),
    [
        (r"C:\work", r"c:/WORK\app", True),
        (r"C:\Jürgen", r"C:\JÜRGEN", True),  # its disk tells, not this machine
        (r"C:\work", r"C:\worker", False),
        (r"C:\work", r"C:\work\..", False),
        (r"C:\work", "/work", False),
        ("/srv/app", "/srv/App", False),
        ("/srv/app", r"C:\srv\app", False),
        ("/", r"C:\srv\app", False),
        ("C:\\", "/srv/app", False),
    ],
)
def test_a_directory_is_compared_by_the_rules_of_the_peers_own_system(
    path: str, asked: str, is_offered: bool
) -> None:
    may = MAY.model_copy(update={"paths": (path,)})
    assert not_offered(may, replace(SPEC, directory=asked)) == ["paths `" + path + "`"] * (
        not is_offered
    )


def test_full_needs_a_rule_with_consent_there_whether_or_not_the_peer_has_spoken() -> None:
    asked = replace(SPEC, profile=Profile.FULL)
    for may in (MAY, May()):
        assert "rule of its own" in needed_there("box", may, asked)
        assert "consent" in needed_there("box", may, asked)


def test_a_long_offer_is_cut_and_says_so() -> None:
    may = MAY.model_copy(update={"runners": tuple(f"command:{n}" for n in range(SHOWN + 3))})
    assert " and 3 more" in offered_instead("box", may, SPEC)
