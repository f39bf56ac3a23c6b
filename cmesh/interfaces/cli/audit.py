"""The commands about the audit as a whole: reports on it, whether it is as it was written."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmesh.interfaces.cli import output, report
from cmesh.interfaces.cli.exits import AUDIT_BROKEN_EXIT
from cmesh.interfaces.cli.options import JsonOption
from cmesh.paths import state_dir

if TYPE_CHECKING:
    from cmesh.interfaces.audit import Checked, Tell

__all__ = ["register"]

_group = typer.Typer(help="Report on the audit, check that it is as it was written.")
report.register(_group)


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    app.add_typer(_group, name="audit")


@_group.command()
def verify(
    *,
    store: Annotated[
        str, typer.Option("--store", metavar="DIR", help="The store; default: this node's own.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check every row, signature and output of an audit store.

    Works on a copy, with or without a running daemon. Names the first thing that is not as it was written, and then ends with status 76.
    """
    from cmesh.interfaces.audit import check_store  # loads DuckDB

    directory = Path(store).absolute() if store else state_dir() / "store"
    with _progress() as tell:
        checked = check_store(directory, tell)
    finding = checked.report.finding
    if as_json:
        found = asdict(checked.report)
        whole = {"ok": finding is None, "store": str(directory), "live": checked.live}
        output.print_json({**whole, **found})
    else:
        _print(checked, directory)
    if finding is not None:
        raise typer.Exit(AUDIT_BROKEN_EXIT)


def _print(checked: "Checked", directory: Path) -> None:
    report, finding = checked.report, checked.report.finding
    how = "a copy that the daemon made" if checked.live else "no daemon has it open"
    looked_at = [("store", f"{directory} ({how})"), ("rows", f"{report.rows:,}")]
    if finding is not None:
        where = "the store" if finding.seq is None else f"row {finding.seq}"
        of = f" of task {finding.task_id}" if finding.task_id else ""
        kind = f" ({finding.kind}{of})" if finding.kind else ""
        output.pairs([*looked_at, ("BROKEN", f"{where}{kind}: {finding.what}")])
        output.hint("nothing after it was looked at; `docs/audit.md` says what to do")
        return
    unknown = report.signatures_unknown
    more = f", {unknown:,} not checked: the signer's key is not in this store" if unknown else ""
    output.pairs(
        [
            *looked_at,
            ("signatures", f"{report.signatures:,} fit{more}"),
            ("outputs", f"{report.outputs:,}"),
            ("prompts", f"{report.prompts_left_out:,} left out" * bool(report.prompts_left_out)),
            ("all", "as it was written"),
        ]
    )


@contextmanager
def _progress() -> Generator["Tell | None"]:
    """Draw how far the check is, on a terminal; in a pipe there is nothing to say."""
    if not output.is_terminal():
        yield None
        return
    with output.stderr().status("copying the store") as status:
        yield lambda what, done, total: status.update(f"{what}: {done:,} of {total:,}")
