"""The copy of a follow-up turn, under a real shim: that of the turn before, with what it changed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.runner.copies import Earlier, read_changed, read_made
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.copying import Copied, commit, edit, git
from tests.system.runner.support import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PATCH = "git/earlier"
FIRST = (
    "rm -r lib; echo now a file >lib; rm link; mkdir link; echo in >link/in; echo x >>note;"
    " chmod +x note; printf 'a\\0b' >bytes; mkdir -p deep/er; ln -s ../../note deep/er/way"
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    (place / "lib").mkdir(parents=True)
    (place / "lib" / "code").write_text("one\n")
    (place / "note").write_text("a note\n")
    (place / "link").symlink_to("/etc")
    return place


def after(done: Copied, *, patched: bool = True) -> Earlier:
    """Return where the turn after a task goes on."""
    made = read_made(done.own)
    assert made is not None
    return Earlier(commit=made.commit, tree=made.tree, patched=patched)


async def test_a_turn_begins_with_what_the_last_one_left_and_its_patch_has_both(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    commit(place)
    one = await edit(worker, place, found, FIRST)
    first = (one.own / "git" / "patch").read_bytes()
    look = "ls -R; cat lib link/in; stat -c %A note; readlink deep/er/way; cat deep/er/way; git status -s"
    two = await edit(worker, place, found, look, earlier=after(one), laid={PATCH: first})
    assert two.exit.verdict == "exited", two.exit
    assert "now a file\nin\n-rwx" in two.output
    assert "../../note\na note\nx\n" in two.output
    assert (two.own / "git" / "patch").read_bytes() == first
    assert list(Path("/etc").glob("in")) == []
    # A source that has gone on, and one whose branch is another: the commit is what counts.
    git(place, "checkout", "--quiet", "-b", "other")
    (place / "note").write_text("other\n")
    git(place, "commit", "--quiet", "--all", "--message=later")
    three = await edit(
        worker, place, found, "rm link/in; git log", earlier=after(one), laid={PATCH: first}
    )
    changed = read_changed(three.own)
    assert changed is not None
    assert "D link" in changed.changed
    assert "later" not in three.output


async def test_a_turn_without_a_change_before_it_goes_on_with_the_same_tree(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    one = await edit(worker, place, found, "true")
    two = await edit(worker, place, found, "cat note", earlier=after(one, patched=False))
    assert two.output == "a note\n"


@pytest.mark.parametrize("base", ["head", "working-tree"])
async def test_what_no_longer_fits_is_not_begun(
    worker: Worker, place: Path, found: Enforcement, base: str
) -> None:
    if base == "working-tree":
        commit(place)
    one = await edit(worker, place, found, "echo x >>note", base=base)
    first = (one.own / "git" / "patch").read_bytes()
    (place / "note").write_text("other\n")
    two = await edit(
        worker, place, found, "true", base=base, earlier=after(one), laid={PATCH: first}
    )
    assert two.exit.verdict != "exited"
    assert "is not what the turn before began with" in str(two.exit)
    (place / "note").write_text("a note\n")
    other = first.replace(b" a note", b" b note")
    two = await edit(
        worker, place, found, "true", base=base, earlier=after(one), laid={PATCH: other}
    )
    assert "`git apply`" in str(two.exit)
    gone = replace(after(one), commit="1" * 40)
    if base == "working-tree":
        two = await edit(worker, place, found, "true", base=base, earlier=gone, laid={PATCH: first})
        assert "the commit 111111111111 that the turn before was made on is not in" in str(two.exit)
