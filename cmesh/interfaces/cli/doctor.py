"""`cmesh doctor`: the command itself; what it does is `examining`, loaded when it is called."""

from typing import Annotated

import typer

from cmesh.interfaces.cli.options import JsonOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(doctor)


def doctor(
    *,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what is safe to mend, each after a yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Ask each runner's model for one word; that costs money."),
    ] = False,
    bundle_file: Annotated[
        str,
        typer.Option("--bundle", metavar="FILE", help="Write a redacted .tar.gz for a bug report."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check this installation, and say for each finding what to do.

    Looks at configuration, node, control server, clock, store, disk, sandbox, runners, agents,
    rules and peers. Works without a daemon and with a broken configuration, and starts nothing.
    Ends with status 90 when there are warnings, with 91 when there are problems.
    """
    # Here and not above: it needs what other commands do not load.
    from cmesh.interfaces.cli.examining import Wishes, run_doctor

    wishes = Wishes(fix=fix, yes=yes, live=live, bundle=bundle_file, as_json=as_json)
    raise typer.Exit(run_doctor(wishes))
