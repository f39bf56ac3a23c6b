"""The commands about exports of the audit: writing one, and asking those of several nodes."""

import asyncio
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmesh.config import load_config
from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import AUDIT_BROKEN_EXIT, CUT_EXIT
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.prompt import converse
from cmesh.interfaces.cli.rows import TEXT_FORMATS, cut, print_rows, require_format
from cmesh.interfaces.cli.session import checked
from cmesh.paths import config_file, state_dir

if TYPE_CHECKING:
    from cmesh.interfaces.exports import Opened, OpenedExports, Told

__all__ = ["register"]

_PROMPT = "audit> "
_VIEWS = """
SELECT table_name AS "view", column_name AS "column", data_type AS "type", comment AS "meaning"
FROM duckdb_columns() WHERE schema_name = 'main' AND NOT internal ORDER BY table_name, column_index
"""


def register(group: typer.Typer) -> None:
    """Add the commands to `cmesh audit`."""
    group.command()(export)
    group.command("open")(open_exports)


def export(
    *,
    target: Annotated[
        str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="Where exports are kept.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Write this node's audit as Parquet files, by days, with a signed list of them.

    Again, it sends only days in which something came or was erased. With or without a running daemon. Keys and the endpoint of a bucket come from AWS_* variables or ~/.aws.
    """
    from cmesh.interfaces.exports import export_store  # loads DuckDB

    with _progress("exporting"):
        done = export_store(state_dir(), target, node=load_config(config_file()).node.hostname)
    if as_json:
        output.print_json(asdict(done))
        return
    fresh = done.last_seq - done.first_seq + 1
    output.pairs(
        [
            ("export", done.where),
            ("rows", f"1 to {done.last_seq:,}, {fresh:,} of them new here"),
            ("files", f"{done.put:,} written ({done.size:,} bytes), {done.kept:,} were there"),
            ("removed", f"{done.removed:,}" * bool(done.removed)),
        ]
    )


def open_exports(
    *,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="DIR|s3://BUCKET/PREFIX...", help="Exports, of any nodes."),
    ],
    query: Annotated[
        str, typer.Option("--sql", metavar="SELECT", help="Ask this instead of a prompt.")
    ] = "",
    form: Annotated[
        str, typer.Option("--format", help="table, json or jsonl (rows), or csv.")
    ] = "table",
    limit: Annotated[int, typer.Option(help="Most rows to return.")] = 1_000,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each chain, signature and view file as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the exports of one or more nodes in SQL. Views have a column `node`.

    Signatures of lists and digests of files are checked first. Without --sql it asks for SELECTs, each ended by a semicolon; standard input without one is an error. What --verify finds first ends with status 76, rows that a limit cut with 78.
    """
    from cmesh.interfaces.exports import opened  # loads DuckDB

    require_format(form, TEXT_FORMATS)
    if as_json and not query and not verify:
        raise UsageError("`--json` needs `--sql` or `--verify`")
    if query:
        checked(SqlArguments, sql=query, limit=limit)
    with ExitStack() as stack:
        with _progress("reading the exports") as tell:
            found = stack.enter_context(opened(targets, verify=verify, own=state_dir(), tell=tell))
        _work(found, query, form, limit, verify=verify, as_json=as_json)


def _work(
    found: "Opened", query: str, form: str, limit: int, *, verify: bool, as_json: bool
) -> None:
    if verify or not query:
        _show(found, as_json=as_json and not query)
    if found.finding is not None:
        raise typer.Exit(AUDIT_BROKEN_EXIT)
    if query:
        asyncio.run(_one(found.database, query, form, limit, as_json=as_json))
    elif not verify:
        _prompt(found.database, form, limit)


async def _one(database: Path, query: str, form: str, limit: int, *, as_json: bool) -> None:
    from cmesh.interfaces.exports import OpenedExports

    async with OpenedExports(database) as exports:
        view = await _ask(exports, query, limit)
    if as_json:
        output.print_json(view)
    else:
        print_rows(view, form)
    if missing := cut(view):
        output.hint(missing)
        raise typer.Exit(CUT_EXIT)


def _prompt(database: Path, form: str, limit: int) -> None:
    """Answer one SELECT after another from the terminal, or from a pipe, until that ends."""
    from cmesh.interfaces.exports import OpenedExports

    exports = OpenedExports(database)

    def show(view: SqlView) -> None:
        print_rows(view, form)
        if missing := cut(view):
            output.hint(missing)

    # One loop for all of them: the process that answers belongs to it.
    with asyncio.Runner() as loop:
        try:
            asked = converse(
                lambda text, most: loop.run(_ask(exports, text, most or limit)),
                show,
                prompt=_PROMPT,
                schema=_VIEWS,
            )
        finally:
            loop.run(exports.close())
    if not asked and not output.somebody():
        raise UsageError(
            "there is no statement", hint="give `--sql SELECT`, or one on standard input"
        )


async def _ask(exports: "OpenedExports", query: str, limit: int) -> SqlView:
    view = SqlView.of(await exports.ask(query, limit))
    return view.model_copy(update={"head_seq": 0})  # of several logs there is no one head


def _show(found: "Opened", *, as_json: bool) -> None:
    if as_json:
        ok = {"ok": found.finding is None}
        nodes = [
            asdict(node) | {"peers": [p.model_dump() for p in node.peers]} for node in found.nodes
        ]
        finding = None if found.finding is None else asdict(found.finding)
        output.print_json({**ok, "nodes": nodes, "finding": finding})
        return
    for node in found.nodes:
        rows = [
            ("node", f"{node.node}, rows 1 to {node.last_seq:,}, exported {node.exported_at}"),
            ("key", f"{node.fingerprint} ({node.vouched})"),
        ]
        if node.report is not None and node.report.finding is None:
            unknown = node.report.signatures_unknown
            more = f", {unknown:,} not checked: the signer's key is not in it" * bool(unknown)
            rows.append(
                ("checked", f"as it was written; {node.report.signatures:,} signatures{more}")
            )
        for line in rows:
            output.say(f"{line[0]:<8} {line[1]}")
    if found.finding is not None:
        seq = "" if found.finding.seq is None else f"row {found.finding.seq}: "
        output.say(f"BROKEN   {seq}{found.finding.what}")


@contextmanager
def _progress(what: str) -> Generator["Told | None"]:
    """Draw what is being done, on a terminal; in a pipe there is nothing to say."""
    if not output.is_terminal():
        yield None
        return
    with output.stderr().status(what) as status:
        yield status.update
