"""The command `schema`: the views of the audit, their columns, and what they mean."""

import sys
from typing import Annotated

import typer

from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.complete import complete_view
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.schema import SCHEMA_ROWS, SCHEMA_SQL, View, views
from cmesh.nearest import did_you_mean

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(schema)


def schema(
    *,
    view: Annotated[
        str,
        typer.Argument(
            metavar="[VIEW]", help="One view; default: all.", autocompletion=complete_view
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List the views that `cmesh sql` can ask. With their columns, types and meaning."""
    arguments = checked(SqlArguments, sql=SCHEMA_SQL, limit=SCHEMA_ROWS)
    found = views(call(lambda client: client.sql(arguments)).rows)
    names = [one.name for one in found]
    if view and view not in names:
        meant = did_you_mean(view, names) or f"the views: {', '.join(names)}"
        raise UsageError(f"there is no view `{view}`", hint=meant)
    shown = [one for one in found if view in ("", one.name)]
    if as_json:
        output.print_json(
            {
                "views": {one.name: {c.name: c.type for c in one.columns} for one in shown},
                "means": {
                    one.name: {"": one.means, **{c.name: c.means for c in one.columns}}
                    for one in shown
                },
            }
        )
    elif sys.stdout.isatty():
        _print(shown)
    else:
        rows = [[one.name, c.name, c.type, c.means] for one in shown for c in one.columns]
        output.table(("view", "column", "type", "means"), rows)


def _print(shown: list[View]) -> None:
    for number, one in enumerate(shown):
        if number:
            output.data("\n")
        output.data(f"{one.name}: {one.means}")
        wide = max((len(column.type) for column in one.columns), default=0)
        output.pairs([(f"  {c.name}", f"{c.type:<{wide}}  {c.means}") for c in one.columns])
