"""Is a commit in a repository, and which ones does it name? As git says, and from files alone."""

import os
from pathlib import Path

import pytest

from cmesh.runner import history
from cmesh.runner.history import lacking
from tests.system.runner.copying import commit, git, judge

OTHER = "f" * 40


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    (place / "code").write_text("one\n")
    commit(place)
    for number in range(40):
        git(place, "commit", "--quiet", "--allow-empty", f"--message={number}")
    return place


def asked(place: Path, oid: str) -> tuple[str, ...] | None:
    return lacking(judge(place), oid)


def test_loose_and_packed_commits_are_there_and_another_is_not(place: Path) -> None:
    oids = git(place, "rev-list", "HEAD").split()
    assert [asked(place, oid) for oid in oids] == [None] * len(oids)
    git(place, "repack", "-a", "-d", "--quiet")
    git(place, "prune-packed")
    git(place, "pack-refs", "--all")
    assert [asked(place, oid) for oid in oids] == [None] * len(oids)
    git(place, "update-ref", "refs/remotes/origin/main", oids[3])
    assert asked(place, OTHER) == (oids[0], oids[3])
    assert asked(place, "0" * 40) == (oids[0], oids[3])


def test_what_cannot_help_is_not_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(place, "f" * 64) is None  # of the other kind of hash
    (place / ".git" / "shallow").write_text(f"{OTHER}\n")
    assert asked(place, OTHER) == ()
    pack = place / ".git" / "objects" / "pack"
    (pack / "odd.idx").write_bytes(b"of another version")
    assert asked(place, OTHER) is None
    (pack / "odd.idx").unlink()
    (pack / "pipe.idx").symlink_to("/dev/zero")
    assert asked(place, OTHER) == ()
    monkeypatch.setattr(history, "PACKS_MOST", 0)
    assert asked(place, OTHER) is None
    (place / ".git").rename(place / "git")
    assert asked(place, OTHER) is None
    (place / ".git").write_text("gitdir: git\n")
    assert asked(place, OTHER) is None
