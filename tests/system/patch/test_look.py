"""Whether a patch would apply, as real git and real trees have it; nothing of them is changed."""

import os
from pathlib import Path

import pytest

from cmesh.errors import UsageError, WrongBase
from tests.system.patch.trees import Tree, state
from tests.system.runner.copying import commit, git

CHANGE = (
    "echo two >>code; printf 'a\\0b' >new; mkdir -p .claude; echo {} >.claude/s.json; rm sub/note"
)


def test_a_patch_that_fits_is_told_whole_and_nothing_is_touched(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    before = state(tree.place)
    with tree.look(patch) as seen:
        assert seen.applies
        assert seen.base.relation == "same"
        told = [f"{one.letter} {one.name}" for one in seen.changes]
        assert told == ["A .claude/s.json", "M code", "A new", "D sub/note"]
        assert [(one.name, one.added, one.deleted) for one in seen.numbers] == [
            (".claude/s.json", 1, 0),
            ("code", 1, 0),
            ("new", None, None),
            ("sub/note", 0, 1),
        ]
        assert seen.flagged == [".claude/s.json"]
    assert state(tree.place) == before


def test_it_says_how_the_tree_stands_to_the_base(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    (tree.place / "later").write_text("x\n")
    git(tree.place, "add", "later")
    git(tree.place, "commit", "--quiet", "--message=later")
    with tree.look(patch) as seen:
        assert (seen.applies, seen.base.relation, seen.base.ahead) == (True, "ahead", 1)
    later = git(tree.place, "rev-parse", "HEAD")
    git(tree.place, "checkout", "--quiet", tree.base)
    with tree.look(patch, base=later) as seen:
        assert (seen.applies, seen.base.relation, seen.base.behind) == (True, "behind", 1)
    git(tree.place, "commit", "--quiet", "--allow-empty", "--message=aside")
    with tree.look(patch, base=later) as seen:
        base = seen.base
        assert (seen.applies, base.relation, base.ahead, base.behind) == (True, "diverged", 1, 1)


@pytest.mark.parametrize("base", ["0" * 40, "f" * 64, "--upload-pack=x", "HEAD", "main"])
def test_a_base_that_is_not_here_is_refused(tree: Tree, base: str) -> None:
    assert tree.objections(tree.patch(CHANGE), base=base) == {"wrong_base": []}


def test_a_directory_in_no_repository_is_refused(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    for at, error in (("..", WrongBase), ("../nothing", UsageError), (".git", WrongBase)):
        with pytest.raises(error), tree.look(patch, at=at):
            pass


def test_a_patch_of_no_repository_is_taken_to_be_below_the_directory(tree: Tree) -> None:
    patch = tree.patch("echo two >>sub/note").replace(b"sub/note", b"note")
    with tree.look(patch, base="", at="sub") as seen:
        assert (seen.applies, seen.base.relation) == (True, "unknown")
        assert [one.name for one in seen.changes] == ["sub/note"]
    assert "patch_conflict" in tree.objections(patch, base="")
    assert tree.objections(patch, base="", branch="x") == {"wrong_base": []}


def test_uncommitted_changes_of_touched_paths_alone_are_refused(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    (tree.place / "tool").write_text("#!/bin/sh\n# mine\n")
    (tree.place / "mine").write_text("mine\n")
    assert tree.objections(patch) == {}
    (tree.place / "code").write_text("mine\n" + "one\n" * 20)
    assert tree.objections(patch) == {"dirty_tree": ["code"]}
    git(tree.place, "add", "code")
    assert tree.objections(patch) == {"dirty_tree": ["code"]}
    git(tree.place, "commit", "--quiet", "--message=mine")
    assert tree.objections(patch) == {}


def test_what_is_in_the_way_is_named_with_why(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    (tree.place / "code").write_text("other\n")
    (tree.place / "new").write_text("mine\n")
    (tree.place / "sub/note").unlink()
    git(tree.place, "add", "code", "sub/note")
    git(tree.place, "commit", "--quiet", "--message=mine")
    assert tree.objections(patch) == {
        "dirty_tree": ["new"],
        "patch_conflict": [
            "code: its lines are others here",
            "new: it is there already",
            "sub/note: it is not there",
        ],
    }


def test_a_patch_that_is_there_already_is_told(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    file = tmp_path / "patch"
    file.write_bytes(patch)
    git(tree.place, "apply", str(file))
    assert tree.objections(patch) == {"already_applied": []}
    git(tree.place, "add", "--all")
    git(tree.place, "commit", "--quiet", "--message=applied")
    assert tree.objections(patch) == {"already_applied": []}
    (tree.place / "code").write_text("top\n" + (tree.place / "code").read_text())
    git(tree.place, "commit", "--quiet", "--all", "--message=more")
    assert tree.objections(patch) == {"already_applied": []}


def test_lines_that_repeat_make_no_new_patch_an_old_one(tree: Tree, tmp_path: Path) -> None:
    # Both ways fit a file of equal lines; the base says which it is.
    patch = tree.patch("sed -i '10i one' code")
    assert tree.objections(patch) == {}
    file = tmp_path / "patch"
    file.write_bytes(patch)
    git(tree.place, "apply", str(file))
    assert tree.objections(patch) == {"already_applied": []}


def test_a_clean_file_whose_bytes_git_converts_is_no_change(tree: Tree) -> None:
    (tree.place / ".gitattributes").write_text("*.txt text eol=crlf\n")
    (tree.place / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    git(tree.place, "add", "--all")
    git(tree.place, "commit", "--quiet", "--message=ends")
    base = git(tree.place, "rev-parse", "HEAD")
    worker = Tree(tree.place.parent / "worker")
    (worker.place / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    git(worker.place, "add", "--all")
    git(worker.place, "commit", "--quiet", "--message=ends")
    patch = worker.patch("printf 'one\\r\\nthree\\r\\n' >a.txt")
    assert tree.objections(patch, base=base) == {}


def test_a_branch_is_tried_at_the_base_whatever_the_tree_has(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    (tree.place / "code").write_text("mine\n")
    before = state(tree.place)
    with tree.look(patch, branch="try") as seen:
        assert seen.applies
        assert seen.tree
    assert state(tree.place) == before
    git(tree.place, "branch", "there")
    assert tree.objections(patch, branch="there") == {"branch_exists": []}
    for name in ("-x", "HEAD", "a..b", "a b", "@{-1}", ""):
        assert not name or tree.objections(patch, branch=name) == {"branch_exists": []}


def test_a_linked_work_tree_and_a_second_format_of_hashes_work(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    git(tree.place, "worktree", "add", "--quiet", "--detach", "../linked")
    assert tree.objections(patch, at="../linked") == {}
    assert tree.objections(patch, at="../linked", branch="try") == {}
    new = tmp_path / "sha256"
    new.mkdir()
    git(new, "init", "--quiet", "--object-format=sha256")
    (new / "code").write_text("one\n")
    base = commit(new)
    (new / "code").write_text("two\n")
    diff = git(new, "diff", "--full-index").encode() + b"\n"
    git(new, "checkout", "code")
    at = os.path.relpath(new, tree.place)
    assert tree.objections(diff, base=base, at=at) == {}
    git(new, "rm", "--quiet", "code")
    gone = git(new, "diff", "--cached", "--full-index").encode() + b"\n"
    assert tree.objections(gone, base=base, at=at, branch="try") == {}


def test_a_folder_may_become_a_file_and_a_file_a_folder(tree: Tree) -> None:
    to_file = tree.patch("rm -r sub; echo now >sub")
    to_folder = tree.patch("rm code; mkdir code; echo now >code/in")
    assert tree.objections(to_file) == {}
    assert tree.objections(to_folder) == {}
    (tree.place / "sub" / "mine").write_text("mine\n")
    with tree.look(to_file) as seen:
        assert seen.applies  # what is in the folder is found when it is to go: nothing is changed


def test_an_unmerged_path_has_uncommitted_changes(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    git(tree.place, "checkout", "--quiet", "-b", "other")
    (tree.place / "code").write_text("other\n")
    git(tree.place, "commit", "--quiet", "--all", "--message=other")
    git(tree.place, "checkout", "--quiet", "main")
    (tree.place / "code").write_text("main\n")
    git(tree.place, "commit", "--quiet", "--all", "--message=main")
    with pytest.raises(Exception, match="status 1"):
        git(tree.place, "merge", "other")
    assert "code" in tree.objections(patch)["dirty_tree"]


def test_a_patch_that_changes_nothing_of_its_base_makes_no_branch(tree: Tree) -> None:
    patch = tree.patch("chmod -x tool")
    (tree.place / "tool").chmod(0o644)
    git(tree.place, "commit", "--quiet", "--all", "--message=plain")
    base = git(tree.place, "rev-parse", "HEAD")
    assert tree.objections(patch, base=base, branch="x") == {"already_applied": []}
    assert tree.objections(patch, base=base) == {"already_applied": []}


@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
def test_changes_that_git_was_told_not_to_look_at_are_uncommitted_ones(
    tree: Tree, mark: str
) -> None:
    patch = tree.patch("echo two >>code")
    git(tree.place, "update-index", mark, "code")
    assert tree.objections(patch) == {}
    (tree.place / "code").write_text("mine\n" + "one\n" * 20)
    assert tree.objections(patch) == {"dirty_tree": ["code"]}


@pytest.mark.parametrize("kind", ["init --quiet", "init --quiet --separate-git-dir ../apart"])
def test_another_repository_in_the_tree_is_not_patched(tree: Tree, kind: str) -> None:
    patch = tree.patch("mkdir -p in/sub; echo x >in/sub/new")
    (tree.place / "in").mkdir()
    git(tree.place / "in", *kind.split())
    why = "in/sub/new: a part of its path is another repository here"
    assert tree.objections(patch) == {"patch_conflict": [why]}


def test_a_bare_repository_that_a_patch_brings_is_to_be_looked_at(tree: Tree) -> None:
    """Whoever asks git in that folder has it run what its `config` says."""
    patch = tree.patch("git init --quiet --bare fixture; touch fixture/refs/x fixture/objects/x")
    with tree.look(patch) as seen:
        assert "fixture/HEAD" in seen.flagged
