"""Sources that are no plain clone, each under a real shim: what the copy is, and what is told of it."""

import os
from pathlib import Path

import pytest

from cmesh.runner.copies import FILE_BYTES, Changed, Made, read_changed, read_made
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.copying import Copied, commit, edit, git
from tests.system.runner.support import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.system]

CHANGE = "git log --format=%s; cat code; echo two >>code"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    (place / "code").write_text("one\n")
    commit(place)
    return place


def found_in(done: Copied) -> tuple[Made, Changed]:
    assert (done.exit.verdict, done.exit.compared) == ("exited", "yes"), done.exit
    made, changed = read_made(done.own), read_changed(done.own)
    assert made is not None
    assert changed is not None
    return made, changed


async def test_a_detached_head_is_the_commit_that_is_checked_out(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    first = git(place, "rev-parse", "HEAD")
    (place / "code").write_text("later\n")
    git(place, "commit", "--quiet", "--all", "--message=later")
    git(place, "checkout", "--quiet", first)
    done = await edit(worker, place, found, f"git branch --show-current; {CHANGE}")
    made, changed = found_in(done)
    assert done.output == "\nfirst\none\n".lstrip()
    assert (made.commit, made.dirty, changed.changed) == (first, False, ["M code"])


async def test_a_git_file_leads_nowhere_and_all_files_are_copied(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    linked = place.parent / "linked"
    git(place, "worktree", "add", "--quiet", "-b", "side", str(linked))
    (linked / "more").write_text("more\n")
    done = await edit(worker, linked, found, "ls -A; echo two >>code")
    made, changed = found_in(done)
    # It is no repository of its own: what lies there is the base, and there is no commit.
    assert done.output == "code\nmore\n"
    assert (made.commit, made.files, changed.changed) == ("", 2, ["M code"])


async def test_what_cannot_be_taken_is_named_and_the_rest_is_worked_on(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    git(place, "init", "--quiet", "sub")
    git(place / "sub", "commit", "--quiet", "--allow-empty", "--message=x")
    git(place, "add", "sub")
    (place / "out").symlink_to("/etc/passwd")
    git(place, "add", "out")
    git(place, "commit", "--quiet", "--message=odd")
    script = f"ls -A sub; readlink out; truncate -s {FILE_BYTES + 1} huge; echo two >>code"
    done = await edit(worker, place, found, script)
    made, changed = found_in(done)
    assert done.output == "/etc/passwd\n"
    assert (made.left_out, changed.changed) == (["sub"], ["M code"])
    assert changed.left_out == ["huge"]
    assert "huge" not in done.patch
