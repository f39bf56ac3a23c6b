"""Whether a work tree and a git directory belong to each other: both of them have to say so.

A `.git` that is a file or a link may name any repository, a person's other one too. Linked work
trees and submodules name their tree in turn, which nobody can plant who cannot write there.
"""

import os
import stat
from pathlib import Path

from cmesh.errors import WrongBase
from cmesh.patch.git import Git
from cmesh.runner.tree_git import Trouble, read_file

__all__ = ["require_own"]

PATH_BYTES = 4096
_WRITTEN = ("objects", "refs", "refs/heads")
"""Where a branch is written."""


def require_own(root: str, directory: str) -> None:
    """Refuse a work tree whose `.git` leads to the repository of another one. Blocks.

    Args:
        root: the top of the work tree, without links.
        directory: git's own directory for it, as git says.

    Raises:
        WrongBase: it does, or nobody can tell.
    """
    own = f"{root.rstrip('/')}/.git"
    directory = os.path.realpath(directory)
    git = Git(root)
    shared = git.line("rev-parse", "--git-common-dir")
    common = os.path.realpath(Path(root, shared))
    if stat.S_ISDIR(os.lstat(own).st_mode):
        belongs = directory == common == own
    elif directory == common:  # a submodule, or a directory that was put elsewhere
        named = git.line("config", "--get", "core.worktree")
        belongs = bool(named) and os.path.realpath(Path(directory, named)) == root
    else:
        belongs = _is_linked(own, directory, common)
    if not belongs:
        raise WrongBase(
            f"`{own}` leads to a git directory that does not name `{root}` as its work tree",
            hint="name a clone or a `git worktree` with -C DIR; if you put that git directory"
            " there yourself, `git config core.worktree DIR` there says so",
        )
    links = [
        name for name in _WRITTEN if os.path.realpath(f"{common}/{name}") != f"{common}/{name}"
    ]
    if links:
        raise WrongBase(
            f"`{links[0]}` of the git directory of `{root}` is a link to somewhere else",
            hint="use a work tree that `git worktree add` has made, or a clone, with -C DIR",
        )


def _is_linked(own: str, directory: str, common: str) -> bool:
    """Say whether it is a linked work tree: git keeps there where that is (gitrepository-layout)."""
    if str(Path(directory).parent) != f"{common}/worktrees":
        return False
    try:
        said = os.fsdecode(read_file(f"{directory}/gitdir", PATH_BYTES)).strip()
    except (OSError, Trouble):
        return False
    # INVARIANT: by the folder, since `.git` itself may be a link.
    named = Path(directory, said)
    return os.path.realpath(named.parent) + f"/{named.name}" == own
