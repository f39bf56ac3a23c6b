"""The command `apply`: its options. What it does is `applying`, loaded only when it is asked for."""

from typing import Annotated

import typer

from cmesh.interfaces.cli.options import JsonOption, OneTaskArgument

__all__ = ["apply"]


def apply(
    *,
    task_id: OneTaskArgument,
    directory: Annotated[
        str, typer.Option("-C", metavar="DIR", help="A directory in the repository; default: here.")
    ] = ".",
    branch: Annotated[
        str,
        typer.Option(metavar="NAME", help="Commit it on a new branch at its base instead."),
    ] = "",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, and do not print the whole diff.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether it would apply, and change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply the patch of a task (profiles edit, build) to a repository of yours, once you say so.

    It shows the patch and what to look at first, checks base, conflicts and uncommitted changes,
    and asks. All of it is applied or nothing. With --branch the work tree stays as it is. No hook,
    filter or other program that git is configured with runs. Where nobody can be asked it needs
    --yes. A no ends with 130.
    """
    from cmesh.interfaces.cli.applying import Wish, apply_patch

    wish = Wish(directory=directory, branch=branch, yes=yes, check=check, as_json=as_json)
    apply_patch(task_id, wish)
