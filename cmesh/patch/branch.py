"""Puts a patch on a branch of its own: one commit at its base. The work tree is not looked at.

Only objects and one ref are written, by commands that run no hook.
"""

import os
import re
import subprocess
from collections.abc import Mapping

from cmesh.errors import BranchExists, PatchConflict, UsageError
from cmesh.patch.git import GIT_LIMIT_S, Git
from cmesh.patch.look import Look
from cmesh.sandbox.plan import find_program

__all__ = ["commit", "require_person"]

_IDENT = re.compile(r"(.*) <(.*)> (\d+ [+-]\d{4})")


def commit(look: Look, branch: str, message: str, environment: Mapping[str, str]) -> str:
    """Make the branch and return its commit; `environment` is the person's. Blocks.

    Raises:
        UsageError: the person has told git no name or address.
        BranchExists: the branch cannot be made; nothing is changed, but for objects that
            nothing names.
    """
    assert look.trial is not None
    repository = look.repository
    who = require_person(repository.root, environment)
    git, tree = look.trial.write_tree(look.base.commit, look.changes, repository.objects)
    if tree != look.tree:
        raise PatchConflict("the repository changed meanwhile", hint="repeat it")
    # Not signed: `commit-tree` signs only when told to, and a signature is the person's to give.
    signer = Git("/", **{**git.env, **who})
    made = signer.run(
        "commit-tree", tree, "-p", look.base.commit, "-F", "-", data=message.encode()
    ).decode().strip()  # fmt: skip
    # INVARIANT: not through a name for another ref, which whoever made the repository has planted.
    done = repository.git.result(
        "update-ref", "--no-deref", "-m", "cmesh apply", f"refs/heads/{branch}", made,
        "0" * len(made),
    )  # fmt: skip
    if done.returncode:
        raise BranchExists("the branch cannot be made: another one has its name, or a part of it")
    return made


def require_person(root: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return who commits in a repository, as git's environment says it. Blocks.

    Raises:
        UsageError: the person has told git no name or address.
    """
    author, committer = (_identity(root, role, environment) for role in ("AUTHOR", "COMMITTER"))
    return {**author, **committer}


def _identity(root: str, role: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the person's own name and address, as `git commit` would take them."""
    done = subprocess.run(  # noqa: S603 - git, from the system's directories
        [find_program("git"), "var", f"GIT_{role}_IDENT"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=root, env=environment,
        timeout=GIT_LIMIT_S,
    )  # fmt: skip
    found = _IDENT.fullmatch(os.fsdecode(done.stdout).strip())
    if done.returncode or found is None:
        raise UsageError(
            "git does not know who you are",
            hint="git config --global user.name NAME; git config --global user.email ADDRESS",
        )
    return {
        f"GIT_{role}_NAME": found[1],
        f"GIT_{role}_EMAIL": found[2],
        f"GIT_{role}_DATE": f"@{found[3]}",
    }
