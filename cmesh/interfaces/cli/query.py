"""The command `sql`: the audit store, asked by people."""

import sys
from typing import Annotated

import typer

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.fleet import (
    LocalOption,
    PeersOption,
    TimeoutOption,
    asked,
    end,
    footer,
)
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.tabular import cell_text, csv_lines

__all__ = ["print_rows", "register"]

FORMATS = ("table", "json", "csv")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(sql)


def sql(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT; see `cmesh schema`.")],
    form: Annotated[str, typer.Option("--format", help="table, json (rows) or csv.")] = "table",
    limit: Annotated[int, typer.Option(help="Most rows to return, of each node.")] = 1_000,
    peers: PeersOption = "",
    local: LocalOption = True,
    timeout: TimeoutOption = "20s",
    as_json: JsonOption = False,
) -> None:
    """Ask this node's audit store in SQL. Read-only, in a process of its own.

    With --peers other machines run it too, each under its own rules, and each row says of which node it is. Who did not answer, and why, comes last, on stderr, or as `nodes` with --json. Ctrl-C ends it everywhere.
    """
    if form not in FORMATS:
        raise UsageError(f"`{form}` is no format", hint=f"use one of {', '.join(FORMATS)}")
    arguments = checked(SqlArguments, sql=query, limit=limit, **asked(peers, timeout, local=local))
    view = call(lambda client: client.sql(arguments))
    if as_json:
        output.print_json(view)
        end(view)
        return
    if view.columns[1:] or not view.nodes:
        print_rows(view, form)
    if view.nodes:
        footer(view)
        end(view)
        return
    _hints(view)


def _hints(view: SqlView) -> None:
    """Say what the rows do not: what is missing of them, and what they were got with."""
    if view.cut_by == "bytes":
        output.hint(f"only the first {len(view.rows)} rows: with more, the answer is too long")
    elif view.truncated:
        output.hint(f"only the first {len(view.rows)} rows; raise --limit for more")
    if view.held_by == "none":
        output.hint("no sandbox on this machine: limits of the operating system held the query")


def print_rows(view: SqlView, form: str = "table") -> None:
    """Print the answer to a query."""
    if form == "json":
        output.print_json([dict(zip(view.columns, row, strict=True)) for row in view.rows])
    elif form == "csv":
        sys.stdout.write("".join(csv_lines(view)))
    else:
        output.table(view.columns, [[cell_text(value) for value in row] for row in view.rows])
