"""A yes is to what was shown: whatever of that changes, the digest changes with it."""

from datetime import UTC, datetime

import pytest

from cmesh.daemon.answers import LimitsView, TaskView, WillRunView
from cmesh.interfaces.dashboard.waiting import PAGE_CHARACTERS, became, digest_of, fitting, waiting
from cmesh.model import Direction, Profile, TaskState

TASK = TaskView(
    task_id="01900000-0000-7000-8000-000000000001",
    direction=Direction.IN,
    peer="laptop",
    node_id="nLAPTOP",
    state=TaskState.WAITING_APPROVAL,
    witness="the worker committed the row",
    known_s=0,
    runner="claude",
    profile=Profile.EDIT,
    directory="/srv/app",
    prompt="do it",
    created_at=datetime(2026, 11, 30, tzinfo=UTC),
    rule="ask first",
    will_run=WillRunView(
        prompt="do it <U+202E>now",
        argv=["claude", "-p", "two words"],
        directory="/srv/app",
        profile="edit",
        narrowed=["sees of the directory: docs"],
        changes="12 bytes on commit abc",
        bind_ignored=["node_modules"],
        accept=["make", "test it"],
        artifacts=["dist/*"],
        preface="cmesh's words",
        answer="a JSON Schema",
        runtime_s=900,
    ),
)


def will(**changes: object) -> TaskView:
    assert TASK.will_run is not None
    return TASK.model_copy(update={"will_run": TASK.will_run.model_copy(update=changes)})


def test_all_that_a_yes_starts_is_shown():
    shown = waiting(TASK)
    assert dict(shown.facts) == {
        "Command": "claude -p 'two words'",
        "In": "/srv/app",
        "Profile": "edit",
        "Narrowed": "sees of the directory: docs",
        "With changes": "12 bytes on commit abc",
        "May read beside it": "node_modules",
        "Is told": "cmesh's words",
        "Answers by": "a JSON Schema",
        "Then runs": "make 'test it'",
        "Hands over": "dist/*",
        "At most": "15 min",
    }
    assert (shown.prompt, shown.obstacle) == ("do it <U+202E>now", "")


@pytest.mark.parametrize("name", list(WillRunView.model_fields))
def test_whatever_of_it_changes_the_yes_was_to_something_else(name: str):
    assert TASK.will_run is not None
    now = getattr(TASK.will_run, name)
    other = ["other"] if isinstance(now, list) else 1 if isinstance(now, int) else "other"
    assert digest_of(will(**{name: other})) != digest_of(TASK)


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "01900000-0000-7000-8000-000000000002"},
        {"peer": "mallory"},
        {"node_id": "nOTHER"},
        {"runner": "codex"},
        {"profile": Profile.FULL},
        {"directory": "/"},
        {"prompt": "something else"},
        {"rule": "another"},
        {"limits": LimitsView(runtime_s=1)},
        {"will_run": None},
    ],
)
def test_so_does_whatever_else_is_shown(change: dict[str, object]):
    assert digest_of(TASK.model_copy(update=change)) != digest_of(TASK)


def test_time_that_passes_changes_nothing():
    assert digest_of(TASK.model_copy(update={"known_s": 9.0, "elapsed_s": 9.0})) == digest_of(TASK)


def test_hidden_characters_are_written_out_and_an_obstacle_is_told():
    shown = waiting(will(argv=["rm", "a\u202eb"], obstacle="no program"))
    assert ("Command", "rm 'a<U+202E>b'") in shown.facts
    assert shown.obstacle == "no program"
    assert waiting(TASK.model_copy(update={"will_run": None})).obstacle


def test_who_came_too_late_is_told_what_was_answered():
    rows = [["approved", "2026-11-30 18:03:11.123+00", "cmesh dashboard"]]
    assert became(rows) == "It was approved at 2026-11-30 18:03:11 UTC, by cmesh dashboard."
    assert became([["expired", None, None]]) == "It was expired."
    assert became([[None, None, None]]) == became([]) == "It waits for no answer any more."


def test_a_page_has_whole_prompts_and_not_more_of_them_than_it_has_room_for():
    short, long = waiting(will(prompt="x")), waiting(will(prompt="x" * PAGE_CHARACTERS))
    assert fitting([]) == []
    assert fitting([long, short]) == [long]
    assert fitting([short, long, short]) == [short]
    assert fitting([short] * 50) == [short] * 50
