"""The commands about the service manager: have it keep the daemon, look, read, take it away."""

from typing import Annotated

import typer

from cmesh.interfaces.cli.options import JsonOption

__all__ = ["register"]

_group = typer.Typer(help="Let the service manager of this machine keep the daemon.")

_DRY = typer.Option("--dry-run", help="Print each step, and do none.")


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    app.add_typer(_group, name="service")


@_group.command()
def install(
    *,
    linger: Annotated[
        bool,
        typer.Option("--linger", help="Let it run without a log-in too; Linux (enable-linger)."),
    ] = False,
    dry_run: Annotated[bool, _DRY] = False,
    as_json: JsonOption = False,
) -> None:
    """Have the service manager start the daemon at log-in, and again when it fails.

    Writes a systemd user unit, a launchd agent or a Windows task, and starts it; a daemon that
    runs already hands over, and tasks run on. The same call again changes nothing. `cmesh up`
    and agents' sessions then start the daemon through the manager.
    """
    from cmesh.interfaces.cli.servicing import install_service

    install_service(linger=linger, dry_run=dry_run, as_json=as_json)


@_group.command()
def status(*, as_json: JsonOption = False) -> None:
    """Show the unit and how it stands. Ends with status 86 when there is none."""
    from cmesh.interfaces.cli.servicing import show_service

    raise typer.Exit(show_service(as_json=as_json))


@_group.command()
def logs(
    *,
    lines: Annotated[int, typer.Option("-n", min=1, max=100_000, help="Lines of its end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the end of the daemon's log, which is the unit's too.

    With --json it is one document, `file` and `lines`, so that --follow does not go with it.
    """
    from cmesh.interfaces.cli.servicing import print_log

    print_log(lines, follow=follow, as_json=as_json)


@_group.command()
def remove(
    *,
    dry_run: Annotated[bool, _DRY] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the daemon and take its unit away. Tasks run on; the next command starts a daemon."""
    from cmesh.interfaces.cli.servicing import remove_service

    remove_service(dry_run=dry_run, as_json=as_json)
