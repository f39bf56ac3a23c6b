"""`cmesh mcp`: the relay that agents start, and the commands that put it into their settings.

Without a command it is the relay; `cmesh.__main__` sends that on before this file is loaded.
"""

from typing import Annotated, TypeAlias

import typer

from cmesh.interfaces.cli.options import JsonOption
from cmesh.setup.clients import CLIENTS

__all__ = ["register"]

_group = typer.Typer(
    help="Serve MCP to an agent, or register cmesh with the agents of this machine.",
    invoke_without_command=True,
)


def _complete(incomplete: str) -> list[str]:
    return [one.name for one in CLIENTS if one.name.startswith(incomplete)]


_NAMES = ", ".join(one.name for one in CLIENTS)

AgentsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[AGENT]...", help=f"{_NAMES}.", autocompletion=_complete),
]
DryRunOption: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change, change nothing.")
]


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    app.add_typer(_group, name="mcp")


@_group.callback()
def serve(context: typer.Context) -> None:
    """Serve MCP on stdin and stdout; agents start this, people do not."""
    if context.invoked_subcommand is not None:
        return
    from cmesh.interfaces.mcp.relay import main as relay

    raise typer.Exit(relay())


@_group.command()
def add(
    *,
    agents: AgentsArgument = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Every agent that is on this machine.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Register cmesh with agents, so that they have its tools in every session.

    Changes one entry of the agent's own settings of this user and nothing else in it; a backup is
    kept. An entry of an older cmesh is brought up to date, one of somebody else stays.
    """
    from cmesh.interfaces.cli.registering import add_to_agents

    add_to_agents(agents or [], everywhere=everywhere, dry_run=dry_run, as_json=as_json)


@_group.command()
def remove(
    *,
    agents: AgentsArgument = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Every agent that has an entry of cmesh.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take cmesh out of agents' settings again; nothing else in them changes."""
    from cmesh.interfaces.cli.registering import remove_from_agents

    remove_from_agents(agents or [], everywhere=everywhere, dry_run=dry_run, as_json=as_json)


@_group.command("list")
def list_(*, as_json: JsonOption = False) -> None:
    """List the agents that cmesh knows: which are here, and what stands in their settings."""
    from cmesh.interfaces.cli.registering import list_agents

    list_agents(as_json=as_json)
