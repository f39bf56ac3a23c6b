"""`cmesh uninstall`: takes cmesh off this machine, each part by a word of its own."""

from typing import Annotated

import typer

from cmesh.interfaces.cli.options import JsonOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(uninstall)


def uninstall(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is there and would go, change nothing.")
    ] = False,
    yes_service: Annotated[
        bool, typer.Option("--yes-service", help="Take the service manager's unit away.")
    ] = False,
    yes_config: Annotated[
        bool, typer.Option("--yes-config", help="Delete the configuration and its rules.")
    ] = False,
    yes_logins: Annotated[
        bool, typer.Option("--yes-logins", help="Delete the runners' API keys.")
    ] = False,
    yes_identity: Annotated[
        bool, typer.Option("--yes-identity", help="Log the node out, delete it and cmesh's key.")
    ] = False,
    yes_store: Annotated[
        bool, typer.Option("--yes-store", help="Delete every task and the audit log.")
    ] = False,
    yes_program: Annotated[
        bool, typer.Option("--yes-program", help="Delete the program that the installer put here.")
    ] = False,
    backup: Annotated[
        str, typer.Option(metavar="FILE", help="First keep the store in a new tar.gz, mode 0600.")
    ] = "",
    end_tasks: Annotated[
        bool, typer.Option("--end-tasks", help="Cancel tasks of others that run here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take cmesh off this machine: out of the agents' settings, then part by part as you say.

    At a terminal it asks for each part; elsewhere the parts without their `--yes-…` stay. Tasks
    that run here are never ended without `--end-tasks`.
    """
    from cmesh.interfaces.cli.uninstalling import uninstall_cmesh

    named = {
        "service": yes_service,
        "config": yes_config,
        "logins": yes_logins,
        "identity": yes_identity,
        "store": yes_store,
        "program": yes_program,
    }
    uninstall_cmesh(named, dry_run=dry_run, backup=backup, end_tasks=end_tasks, as_json=as_json)
