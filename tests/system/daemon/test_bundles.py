"""Changes on commits that the worker lacks: they come with them as a bundle, and only for the copy."""

import subprocess
from pathlib import Path

import pytest

from cmesh.model import TaskState
from tests.system.daemon.machine import Machine
from tests.system.daemon.test_apply import give
from tests.system.daemon.test_edit import TOKEN
from tests.system.daemon.test_with_changes import newest, pair, send, trees
from tests.system.runner.copying import commit, git

__all__ = ["pair", "trees"]

pytestmark = [pytest.mark.anyio, pytest.mark.system]


def ahead(home: Path, name: str = "later", text: str = "later\n") -> str:
    """Commit something in a clone that its source has not; return the commit."""
    (home / name).write_text(text)
    git(home, "add", "--all")
    git(home, "commit", "--quiet", "--message=ahead")
    give(home)
    return git(home, "rev-parse", "HEAD")


async def test_commits_that_are_not_there_come_along_and_stay_out_of_the_source(
    trees: tuple[Machine, Machine, Path, Path],
) -> None:
    laptop, worker, place, home = trees
    before = git(place, "count-objects", "-v")
    head = ahead(home)
    (home / "code").write_text("one\nmine\n")
    give(home)
    status, said, why = send(laptop, worker, place, home, script="look")
    assert (status, said) == (0, "one\nmine\n"), why
    view = await newest(laptop)
    assert view.patch is not None
    assert (view.patch.base_commit, view.patch.base, view.patch.left_out) == (head, "changes", [])
    assert git(place, "count-objects", "-v") == before
    # Its history is there too, and the patch fits what was sent.
    status, _, why = send(laptop, worker, place, home, script="change")
    assert status == 0, why
    applied = laptop.cli("apply", (await newest(laptop)).task_id, "-C", str(home), "--yes")
    assert applied.returncode == 0, applied.stderr
    assert (home / "code").read_text() == "one\nmine\ntwo\n"
    assert "bundle_made" in laptop.log_text()
    assert list((worker.state / "store" / "blobs").glob("incoming-*")) == []


async def test_what_is_not_sent_is_said_by_both(
    trees: tuple[Machine, Machine, Path, Path],
) -> None:
    laptop, worker, place, home = trees
    ahead(home, "settings", f"token = {TOKEN}\n")
    status, _, why = send(laptop, worker, place, home)
    view = await newest(laptop)
    assert (status != 0, view.state) == (True, TaskState.CANCELLED)
    assert view.code == "secret_found"
    assert "is not in its repository, and the caller sends no bundle of it: 1 secrets are" in why


async def test_a_repository_with_another_history_gets_all_of_it(
    trees: tuple[Machine, Machine, Path, Path],
) -> None:
    laptop, worker, place, home = trees
    subprocess.run(["rm", "-rf", str(place / ".git")], check=True)
    commit(place)
    head = ahead(home)
    status, said, why = send(laptop, worker, place, home, script="look")
    assert (status, said) == (0, "one\n"), why
    view = await newest(laptop)
    assert view.patch is not None
    assert view.patch.base_commit == head
