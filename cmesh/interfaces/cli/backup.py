"""The commands `audit backup` and `audit restore`: the store as one file, and back."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cmesh.config import load_config
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption
from cmesh.paths import config_file, state_dir

__all__ = ["backup", "restore"]


def backup(
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the whole audit store into one file, with or without a running daemon.

    It holds every text and output that is kept, so keep it as you keep the machine: mode 0600. This node's key, its configuration and its place in the tailnet are not in it.
    """
    from cmesh.interfaces.backup import back_up  # loads DuckDB

    contents = back_up(state_dir() / "store", Path(file).absolute(), force=force)
    if as_json:
        output.print_json({"file": str(Path(file).absolute()), **asdict(contents)})
        return
    size = contents.database_bytes + contents.output_bytes
    output.data(f"{file}: {contents.head_seq:,} rows, {contents.outputs:,} outputs, {size:,} bytes")


def restore(
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of `cmesh audit backup`.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put the audit store of a backup in the place of this node's. The daemon must be down.

    All of it is checked before anything is touched. The store gets another incarnation, so that peers see that tasks may be missing, and what was forgotten since stays forgotten. The store that was there is kept beside it.
    """
    from cmesh.interfaces.backup import require_backup  # loads DuckDB
    from cmesh.interfaces.backup import restore as put_back

    require_backup(Path(file).absolute())
    if not yes:
        _ask(as_json=as_json)
    node = load_config(config_file()).node.hostname
    done = put_back(Path(file).absolute(), state_dir(), node)
    kept = str(done.replaced) if done.replaced else None
    if as_json:
        now = {"incarnation": done.incarnation, "replaced": kept}
        output.print_json({**asdict(done.contents), **now})
        return
    output.data(f"restored: {done.contents.head_seq:,} rows, {done.contents.outputs:,} outputs")
    if kept:
        output.say(f"the store that was there is {kept}, with its texts, until you delete it")
    output.hint("cmesh up")


def _ask(*, as_json: bool) -> None:
    if as_json or not output.somebody():
        raise UsageError("there is nobody to ask", hint="say --yes")
    sys.stderr.write("Put this backup in the place of the store? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not restored", hint="nothing was changed")
