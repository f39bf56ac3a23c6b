"""The command `sql`: the audit store, asked by people."""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import STATEMENT_CHARACTERS, SqlArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.charting import require_kind
from cmesh.interfaces.cli.complete import complete_statement
from cmesh.interfaces.cli.exits import CUT_EXIT
from cmesh.interfaces.cli.fleet import (
    LocalOption,
    PeersOption,
    TimeoutOption,
    asked,
    end,
    footer,
)
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.params import bound
from cmesh.interfaces.cli.prompt import converse
from cmesh.interfaces.cli.rows import (
    PARQUET,
    TEXT_FORMATS,
    cut,
    format_of,
    print_rows,
    require_format,
    text_of,
)
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.cli.sink import Sink
from cmesh.interfaces.schema import SCHEMA_SQL
from cmesh.text import one_line

__all__ = ["CHART", "FORMATS", "deliver", "register"]

FORMATS = (*TEXT_FORMATS, PARQUET)
_DOCUMENT = "document"
"""The form of `--json`: rows, columns, types, and what is known of the answer."""

CHART = "chart: "
"""Before the kind of a chart, as a form."""

_STATEMENTS = "give a SELECT, `--file FILE`, or `-` to read standard input"
_COLUMNS = f"SELECT * FROM ({SCHEMA_SQL}) WHERE \"column\" <> ''"  # noqa: S608 - two constants

_STANDARD_INPUT = "-"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(sql)


def sql(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    query: Annotated[
        str,
        typer.Argument(
            metavar="[SELECT]",
            help="One SELECT, see `cmesh schema`; `-` = standard input.",
            autocompletion=complete_statement,
        ),
    ] = "",
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="Read the statement from a file.")
    ] = "",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            metavar="[NAME=]VALUE",
            help="Bind a value to `$NAME`, or to the next `?`: a number, true, false, null, "
            'else text; `"5"` is text. Repeat for more.',
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="table, json or jsonl (rows), csv or parquet; default: what the name of --output ends with, else table.",
        ),
    ] = "",
    chart: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Draw it: bar, line, hist, or auto. The first column is x, columns of numbers are y.",
        ),
    ] = "",
    target: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Write a new file, its owner's alone."),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="With --output: replace a file that is there.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Most rows to return, of each node.")] = 1_000,
    peers: PeersOption = "",
    local: LocalOption = True,
    timeout: TimeoutOption = "20s",
    as_json: JsonOption = False,
) -> None:
    """Ask this node's audit store in SQL. Read-only, in a process of its own.

    Without a statement it asks for some at a terminal, each ended by a semicolon; `.help` there says more.     With --peers other machines run it too, each under its own rules, and each row says of which node it is. Who did not answer, and why, comes last, on stderr, or as `nodes` with --json. Ctrl-C ends it everywhere. Ends with status 78 when a limit cut the rows, and stderr says which; with 75 when the statement is wrong or took too long.
    """
    if form:
        require_format(form, FORMATS)
    if as_json and form not in ("", "table"):
        raise UsageError("--json and --format together", hint="--json has the rows and the rest")
    require_kind(chart)
    if chart and (as_json or form not in ("", "table")):
        raise UsageError(
            "--chart draws the rows, so it goes with neither --format nor --json",
            hint="leave --chart out, or the other",
        )
    form = form or ("table" if chart or as_json else format_of(target))
    sink = Sink(target, force=force)
    if form == PARQUET:
        sink.require_no_terminal()
    fields = {"limit": limit, **asked(peers, timeout, local=local)}
    if not query and not file and output.somebody():
        if param or as_json or target or form == PARQUET:
            raise UsageError("there is no statement", hint=_STATEMENTS)
        _prompt(form, chart, fields)
        return
    arguments = checked(
        SqlArguments, sql=_statement(query, file), parameters=bound(param or []), **fields
    )
    view = call(lambda client: client.sql(arguments))
    deliver(view, _DOCUMENT if as_json else f"{CHART}{chart}" if chart else form, sink)


def _prompt(form: str, chart: str, fields: Mapping[str, Any]) -> None:
    """Answer one statement after another from the terminal."""

    def ask(text: str, most: int | None) -> SqlView:
        more: dict[str, Any] = {"limit": most, "peers": [], "local": True} if most else {}
        arguments = checked(SqlArguments, sql=text, **{**fields, **more})
        return call(lambda client: client.sql(arguments))

    def show(view: SqlView) -> None:
        missing = _write(view, f"{CHART}{chart}" if chart else form, Sink("", force=False))
        footer(view)
        if missing := missing or cut(view):
            output.hint(missing)

    converse(ask, show, prompt="cmesh> ", schema=_COLUMNS)


def _statement(query: str, file: str) -> str:
    """Return the statement, wherever it stands.

    Raises:
        UsageError: there is none, or two, or it cannot be read.
    """
    if query and file:
        raise UsageError("there are two statements", hint="give SELECT or --file, not both")
    if not query and not file:
        raise UsageError("there is no statement", hint=_STATEMENTS)
    if query and query != _STANDARD_INPUT:
        return query
    try:
        if _STANDARD_INPUT in (query, file):
            text = _decoded(sys.stdin.buffer.read(4 * STATEMENT_CHARACTERS + 1))
        else:
            with Path(file).open("rb") as stream:
                text = _decoded(stream.read(4 * STATEMENT_CHARACTERS + 1))
    except OSError as error:
        raise UsageError(f"`{one_line(file)}` cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UsageError("the statement is empty")
    return text


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise UsageError("the statement is no text in UTF-8") from error


def deliver(view: SqlView, form: str, sink: Sink) -> None:
    """Print or write an answer, and say what is missing of it.

    Args:
        view: the answer.
        form: one of `FORMATS`, or `CHART` with the kind of a chart.
        sink: where the rows go.

    Raises:
        Exit: of the command, where a limit cut the rows or nobody answered.
        UsageError: it cannot be drawn or written so.
    """
    missing = cut(view)
    nobody = bool(view.nodes) and all(node.state != "answered" for node in view.nodes)
    if form == _DOCUMENT:
        sink.write(output.json_text(view) + "\n")
    elif not nobody:
        missing = _write(view, form, sink) or missing
    if form != _DOCUMENT:
        footer(view)
    if not nobody and sink.path is not None:
        rows = f"{len(view.rows)} row{'s' * (len(view.rows) != 1)}"
        output.say(f"{rows} in {one_line(str(sink.path), 200)}")
    if missing:
        output.hint(missing)
    elif form != _DOCUMENT and view.held_by == "none":
        output.hint("no sandbox on this machine: limits of the operating system held the query")
    end(view)
    if missing:
        raise typer.Exit(CUT_EXIT)


def _write(view: SqlView, form: str, sink: Sink) -> str:
    """Write the rows; return what could not be written of them."""
    if form.startswith(CHART):
        from cmesh.interfaces.cli.chart import chart as drawn

        colour = sink.path is None and output.has_colour()
        text, notes = drawn(view, form.removeprefix(CHART), colour=colour)
        sink.write(text)
        for note in notes:
            output.hint(note)
        return ""
    if form != PARQUET:
        if sink.path is None:
            print_rows(view, form)
        else:
            sink.write(text_of(view, form))
        return ""
    from cmesh.interfaces.parquet import write_parquet

    if sink.path is not None:
        with sink.made() as place:
            return write_parquet(view, place)
    with tempfile.TemporaryDirectory(prefix="cmesh-sql-") as directory:
        place = Path(directory) / "rows"
        missing = write_parquet(view, place)
        with place.open("rb") as rows:
            shutil.copyfileobj(rows, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return missing
