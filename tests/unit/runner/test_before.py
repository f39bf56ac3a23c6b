"""What is known of a directory without a copy: its repository, and what lies otherwise after."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmesh.beneath import Judged, identity, open_root
from cmesh.clock import SystemClock
from cmesh.runner import listing
from cmesh.runner.before import Head, changes, note_before, noted_before, read_head
from cmesh.runner.listing import Changes, Listing, compare, take
from tests.system.runner.copying import commit, git

CLOCK = SystemClock()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "place"
    for name in ("a", "sub/b", "sub/c", "old/d"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"{name}\n")
    return place


@pytest.fixture
def root(place: Path) -> Iterator[int]:
    fd = open_root(str(place))
    yield fd
    os.close(fd)


def judged(place: Path) -> Judged:
    fd = open_root(str(place))
    try:
        return (str(place), "", *identity(fd))
    finally:
        os.close(fd)


def test_what_is_other_than_before_is_told_by_path(place: Path, root: int) -> None:
    (place / "link").symlink_to("a")
    before = take(root, CLOCK)
    assert compare(root, before, CLOCK) == Changes()
    (place / "a").write_text("b\n")
    same = (place / "sub/b").stat()
    (place / "sub/b").write_text("sub/B\n")
    os.utime(place / "sub/b", ns=(same.st_atime_ns, same.st_mtime_ns))
    os.utime(place / "sub/c")
    (place / "old/d").unlink()
    (place / "old").rmdir()
    (place / "new/deep").mkdir(parents=True)
    (place / "new/deep/e").touch()
    (place / "link").unlink()
    (place / "link").symlink_to("sub")
    found = compare(root, before, CLOCK)
    assert found.names == ("M a", "M link", "A new/deep/e", "D old/d", "M sub/b")
    assert found.reason == ""


def test_no_link_is_followed_and_no_pipe_waited_for(place: Path, root: int, tmp_path: Path) -> None:
    before = take(root, CLOCK)
    other = tmp_path / "other"
    other.mkdir()
    (other / "secret").touch()
    for name in ("b", "c"):
        (place / "sub" / name).unlink()
    (place / "sub").rmdir()
    (place / "sub").symlink_to(other)
    (place / "a").unlink()
    os.mkfifo(place / "a")
    (place / ".git").mkdir()
    (place / ".git/config").touch()
    found = compare(root, before, CLOCK)
    assert found.names == ("T a", "A sub", "D sub/b", "D sub/c")


def test_beyond_a_limit_it_says_so_and_claims_nothing(
    place: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (place / "sub" / f"n{number}").touch()
    monkeypatch.setattr(listing, "FILES_MOST", 10)
    before = take(root, CLOCK)
    assert set(before.folders) <= {"", "old"}
    assert before.reason
    (place / "sub/n1").write_text("unseen")
    (place / "a").write_text("seen\n")
    found = compare(root, before, CLOCK)
    assert (found.names, bool(found.reason)) == (("M a",), True)

    monkeypatch.setattr(listing, "FILES_MOST", 100)
    monkeypatch.setattr(listing, "HASHED_BYTES", 1)
    before = take(root, CLOCK)
    assert "size and time alone" in before.reason
    os.utime(place / "sub/b", ns=(1, 1))
    assert compare(root, before, CLOCK).names == ("M sub/b",)

    monkeypatch.setattr(listing, "LOOK_S", -1.0)
    assert take(root, CLOCK) == Listing(reason="a look takes at most -1 s")


def test_a_name_that_is_no_text_is_left_out_and_told(place: Path, root: int) -> None:
    (Path(os.fsdecode(os.fsencode(place) + b"/\xff"))).touch()
    assert take(root, CLOCK).reason == "a name is no text"


def test_commit_and_branch_are_read_from_files(place: Path, root: int) -> None:
    assert read_head(root) is None
    git(place, "init", "--quiet", "--initial-branch=trunk/x")
    assert read_head(root) == Head(branch="trunk/x")
    head = commit(place)
    assert read_head(root) == Head(commit=head, branch="trunk/x")
    git(place, "pack-refs", "--all")
    assert read_head(root) == Head(commit=head, branch="trunk/x")
    git(place, "checkout", "--quiet", "--detach")
    assert read_head(root) == Head(commit=head)


@pytest.mark.parametrize(
    "pointer", ["ref: refs/../../a", "ref: refs/heads/out", "ref: a", "", "x" * 9_000]
)
def test_what_leads_out_of_a_repository_is_not_read(
    place: Path, root: int, tmp_path: Path, pointer: str
) -> None:
    (tmp_path / "out").write_text("a" * 40)
    (place / "a").write_text("a" * 40)
    heads = place / ".git/refs/heads"
    heads.mkdir(parents=True)
    (heads / "out").symlink_to(tmp_path / "out")
    (place / ".git/HEAD").write_text(pointer)
    found = read_head(root)
    assert found is not None
    assert found.commit == ""
    assert found.reason


def test_what_was_noted_first_stays_and_another_directory_is_told(
    place: Path, tmp_path: Path
) -> None:
    task = tmp_path / "task"
    task.mkdir()
    note_before(task, judged(place), CLOCK, listed=True)
    (place / "a").write_text("other\n")
    note_before(task, judged(place), CLOCK, listed=True)
    noted = noted_before(task)
    assert noted is not None
    found = changes(noted, CLOCK)
    assert found is not None
    assert found.names == ("M a",)
    place.rename(tmp_path / "moved")
    place.mkdir()
    gone = changes(noted, CLOCK)
    assert gone is not None
    assert (gone.names, "another directory" in gone.reason) == ((), True)


def test_a_repository_is_not_listed_and_a_sandboxed_task_neither(
    place: Path, tmp_path: Path
) -> None:
    for number, listed in enumerate((True, False)):
        task = tmp_path / f"task{number}"
        task.mkdir()
        if listed:
            commit(place)
        note_before(task, judged(place), CLOCK, listed=listed)
        noted = noted_before(task)
        assert noted is not None
        assert (noted.head is not None, noted.listing) == (True, None)
