"""A patch on a branch of its own: one commit at the base, by the person, and nothing else."""

import os
from pathlib import Path

import pytest

from cmesh.errors import UsageError
from cmesh.patch.branch import commit
from tests.system.patch.trees import Tree, state
from tests.system.runner.copying import git

CHANGE = "echo two >>code; printf 'a\\0b' >new; rm sub/note"


def environment(tmp_path: Path, *lines: str) -> dict[str, str]:
    config = tmp_path / "gitconfig"
    config.write_text("\n".join(["[user]", *lines, ""]))
    return {"PATH": os.defpath, "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(config)}


def test_a_branch_has_one_commit_at_the_base_and_the_tree_stays(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    git(tree.place, "commit", "--quiet", "--allow-empty", "--message=later")
    (tree.place / "code").write_text("mine\n")
    who = environment(tmp_path, "name = Ada L", "email = ada@example.com")

    def kept() -> dict[str, object]:
        own = (".git/objects/", ".git/refs/heads/try", ".git/logs/refs/heads/try")
        return {
            name: what
            for name, what in state(tree.place).items()
            if not name.startswith(own) and what[1] is not None
        }

    before = kept()
    with tree.look(patch, branch="try") as seen:
        made = commit(seen, "try", "a subject\n\nCmesh-Task: x\n", who)
    assert kept() == before
    assert git(tree.place, "rev-parse", "try") == made
    assert git(tree.place, "rev-parse", "try^") == tree.base
    told = git(tree.place, "log", "-1", "--format=%an %ae %cn %s", "try")
    assert told == "Ada L ada@example.com Ada L a subject"
    diff = git(tree.place, "diff", "--binary", "--full-index", "--no-renames", "try^", "try")
    assert diff.encode() == patch.strip()
    git(tree.place, "fsck", "--strict")
    assert tree.objections(patch, branch="try") == {"already_applied": []}


def test_without_an_identity_there_is_no_commit(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    with (
        tree.look(patch, branch="try") as seen,
        pytest.raises(UsageError, match="does not know who you are"),
    ):
        commit(seen, "try", "x", environment(tmp_path, "useConfigOnly = true"))
    assert git(tree.place, "branch", "--list", "try") == ""


def test_a_branch_whose_name_is_a_folder_of_others_is_refused(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    git(tree.place, "branch", "try/one")
    who = environment(tmp_path, "name = a", "email = a@b")
    with tree.look(patch, branch="try") as seen, pytest.raises(Exception, match="cannot be made"):
        commit(seen, "try", "x", who)
