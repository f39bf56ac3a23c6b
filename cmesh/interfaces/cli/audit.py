"""The commands about the audit as a whole: reports, whether it is as it was written, copies."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmesh.interfaces.cli import exports, output, report
from cmesh.interfaces.cli.backup import backup, restore
from cmesh.interfaces.cli.exits import AUDIT_BROKEN_EXIT, AUDIT_UNPROVEN_EXIT
from cmesh.interfaces.cli.forget import compact, forget
from cmesh.interfaces.cli.options import JsonOption
from cmesh.paths import state_dir

if TYPE_CHECKING:
    from cmesh.interfaces.audit import Tell

__all__ = ["register"]

_group = typer.Typer(
    help="Report on the audit, check it, export it, back it up, and have it forget."
)
report.register(_group)
exports.register(_group)

StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", help="The store; default: this node's own.")
]
PeerArgument = Annotated[str, typer.Argument(metavar="PEER", help="A peer's name or node id.")]


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    app.add_typer(_group, name="audit")
    _group.command()(forget)
    _group.command()(compact)
    _group.command()(backup)
    _group.command()(restore)


@_group.command()
def verify(
    *,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="WHO",
            help="Compare with what a peer holds of this log, and with what this node holds of the peer's. A name, `all` trusted peers, or a file by `cmesh audit receipts`. May be given several times.",
        ),
    ] = None,
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Check every row, signature and output of an audit store.

    Works on a copy, with or without a running daemon. Names the first thing that is not as it was written, and then ends with status 76. With `--against` it asks the other side, which finds a log that was cut off or written anew; status 77 means that somebody could not be asked, or can vouch for nothing.
    """
    from cmesh.interfaces.against import check_against  # loads DuckDB
    from cmesh.interfaces.audit_report import audit_view
    from cmesh.interfaces.cli.audit_text import print_audit

    directory = _directory(store)
    with _progress() as tell:
        checked, compared = check_against(directory, against or (), tell)
    view = audit_view(checked.report, str(directory), compared, live=checked.live)
    if as_json:
        output.print_json(view)
    else:
        print_audit(view)
    if not view.ok:
        raise typer.Exit(AUDIT_BROKEN_EXIT if view.broken else AUDIT_UNPROVEN_EXIT)


@_group.command()
def receipts(
    peer: PeerArgument,
    *,
    file: Annotated[
        str, typer.Option("--output", metavar="FILE", help="A new file, instead of stdout.")
    ] = "",
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print what this machine holds of a peer's audit, for a check over there.

    Take the file to the other machine: `cmesh audit verify --against FILE`. It holds the texts of results of the tasks between both machines. It is JSON lines with and without `--json`.
    """
    from cmesh.interfaces.receipts import write_file, write_receipts  # loads DuckDB

    directory = _directory(store)
    if file:
        count = write_file(directory, peer, Path(file))
    else:
        count = write_receipts(directory, peer, sys.stdout)
        sys.stdout.flush()
    if not as_json:
        output.say(f"{count} receipts of `{peer}`")
    elif file:
        output.print_json({"file": str(Path(file).absolute()), "receipts": count})


def _directory(store: str) -> Path:
    return Path(store).absolute() if store else state_dir() / "store"


@contextmanager
def _progress() -> Generator["Tell | None"]:
    """Draw how far the check is, on a terminal; in a pipe there is nothing to say."""
    if not output.is_terminal():
        yield None
        return
    with output.stderr().status("copying the store") as status:
        yield lambda what, done, total: status.update(f"{what}: {done:,} of {total:,}")
