"""Where conversations lie, how long they are kept, and what holds one."""

import fcntl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.model import TaskId
from cmesh.runner.manifest import Session
from cmesh.runner.sessions import KEEP, Sessions

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ONE = TaskId("0193a5c0-0000-7000-8000-000000000001")
TWO = TaskId("0193a5c0-0000-7000-8000-000000000002")
CLAUDE = Session(
    new=(), resume=(), home=".claude/projects", file="*/{session_id}.jsonl", adds_up_cost=True
)
CODEX = Session(
    id="read",
    new=(),
    resume=(),
    home="sessions",
    file="*/rollout-*-{session_id}.jsonl",
    adds_up_cost=False,
)


def conversation(sessions: Sessions, thread: TaskId) -> Path:
    place = sessions.place(thread, CLAUDE)
    file = place.files / "-srv-app" / f"{thread}.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("{}", "utf-8")
    place.lock.touch()
    sessions.keep(thread, NOW)
    return file


def nobody(_thread: TaskId) -> bool:
    return False


def test_a_conversation_is_kept_when_its_file_is_there(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "sessions")
    assert not sessions.kept(ONE, CLAUDE)
    file = conversation(sessions, ONE)
    assert sessions.kept(ONE, CLAUDE)
    assert not sessions.kept(TWO, CLAUDE)
    file.unlink()
    assert not sessions.kept(ONE, CLAUDE)


def test_one_that_the_agent_named_is_kept_under_that_name(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "sessions")
    sessions.note(ONE, CODEX, "ses_1")  # nobody made its directory: there is nothing to keep
    assert not sessions.directory.exists()
    file = sessions.place(ONE, CODEX).files / "2026" / "rollout-now-ses_1.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("{}", "utf-8")
    assert not sessions.kept(ONE, CODEX)
    sessions.note(ONE, CODEX, "ses_1")
    assert sessions.kept(ONE, CODEX)
    assert Sessions(sessions.directory).place(ONE, CODEX).session_id == "ses_1"
    sessions.note(ONE, CLAUDE, "ses_1")
    assert sessions.place(ONE, CLAUDE).session_id == ONE


def test_what_a_task_made_is_searched_for_a_while_and_no_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = Sessions(tmp_path / "sessions")
    everywhere = CODEX.model_copy(update={"file": "**/rollout-*-{session_id}.jsonl"})
    deep = CODEX.model_copy(update={"file": "*/*/*/*/rollout-*-{session_id}.jsonl"})
    files = sessions.place(ONE, deep).files
    files.mkdir(parents=True)
    sessions.note(ONE, deep, "ses_1")
    for number in range(200):  # 200^4 places, were each followed
        (files / f"d{number}").symlink_to(".")
    assert not sessions.kept(ONE, deep)
    other = sessions.place(TWO, CODEX).files / "2026" / "rollout-now-ses_1.jsonl"
    other.parent.mkdir(parents=True)
    other.write_text("{}", "utf-8")
    (files / "2026").symlink_to(other.parent)
    assert not sessions.kept(ONE, CODEX), "the conversation of another"
    (files / "rollout").mkdir()
    (files / "rollout" / "rollout-now-ses_1.jsonl").symlink_to(other)
    assert not sessions.kept(ONE, CODEX)
    (files / "rollout" / "rollout-later-ses_1.jsonl").touch()
    assert sessions.kept(ONE, CODEX)
    assert sessions.kept(ONE, everywhere)
    monkeypatch.setattr("cmesh.runner.sessions.ENTRIES_MOST", 200)
    assert not sessions.kept(ONE, everywhere), "the search ends before it is at the file"


@pytest.mark.parametrize("said", ["", "--last", "*", "../1", "a b", "ä", "a" * 81, "ses_1\n"])
def test_what_is_no_id_is_neither_kept_nor_read(tmp_path: Path, said: str) -> None:
    sessions = Sessions(tmp_path)
    (tmp_path / ONE).mkdir()
    sessions.note(ONE, CODEX, "ses_1")
    sessions.note(ONE, CODEX, said)
    assert sessions.place(ONE, CODEX).session_id == "ses_1"
    (tmp_path / ONE / "id").write_text(said, "utf-8")
    assert sessions.place(ONE, CODEX).session_id == ""


def test_it_is_deleted_when_its_time_is_over_and_not_before(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "sessions")
    assert sessions.sweep(NOW, nobody) == []
    file = conversation(sessions, ONE)
    assert sessions.sweep(NOW + KEEP - timedelta(seconds=1), nobody) == []
    assert sessions.keep(ONE, NOW + timedelta(days=1)) == NOW + timedelta(days=1) + KEEP
    assert sessions.sweep(NOW + KEEP, nobody) == []
    assert file.exists()
    assert sessions.sweep(NOW + timedelta(days=1) + KEEP, nobody) == [ONE]
    assert list(sessions.directory.iterdir()) == []


def test_what_a_task_needs_or_a_shim_holds_is_not_deleted(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "sessions")
    for thread in (ONE, TWO):
        conversation(sessions, thread)
    with sessions.place(TWO, CLAUDE).lock.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sessions.sweep(NOW + KEEP, lambda thread: thread == ONE) == []
    assert sessions.sweep(NOW + KEEP, lambda thread: thread == ONE) == [TWO]
