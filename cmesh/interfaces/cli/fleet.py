"""Queries of several nodes on the command line: who is asked, and how each answered."""

from typing import Annotated, Any, TypeAlias

import typer

from cmesh.daemon.answers import SqlView
from cmesh.errors import QueryRefused, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.complete import complete_peers
from cmesh.interfaces.cli.options import seconds
from cmesh.text import one_line

__all__ = ["LocalOption", "PeersOption", "TimeoutOption", "asked", "end", "footer"]

PeersOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="PEERS",
        help="Ask these peers too: names with commas, or all.",
        autocompletion=complete_peers,
    ),
]
LocalOption: TypeAlias = Annotated[
    bool, typer.Option("--local/--no-local", help="With --peers: ask this node as well.")
]
TimeoutOption: TypeAlias = Annotated[
    str, typer.Option(metavar="TIME", help="With --peers: how long each is waited for.")
]

_WORDS = {
    "answered": "answered",
    "offline": "offline",
    "denied": "denied",
    "too_old": "too old",
    "timed_out": "timed out",
    "failed": "failed",
    "over_limit": "over a limit",
    "bad_answer": "bad answer",
}


def asked(peers: str, timeout: str, *, local: bool) -> dict[str, Any]:
    """Return the fields of the call that say who is asked.

    Raises:
        UsageError: an option is of another form, or nobody is left to ask.
    """
    names = [name.strip() for name in peers.split(",") if name.strip()]
    if peers and not names:
        raise UsageError("--peers names nobody", hint="say `--peers all`, or `--peers a,b`")
    if not names and not local:
        raise UsageError("nobody is asked", hint="name --peers, or leave --no-local out")
    return {"peers": names, "local": local, "timeout_s": seconds(timeout)}


def footer(view: SqlView) -> None:
    """Say on stderr how each node of a fleet query answered."""
    if not view.nodes:
        return
    width = max(len(one_line(node.node)) for node in view.nodes)
    for node in view.nodes:
        said = f"{one_line(node.node):<{width}}  {_WORDS[node.state]}"
        if node.state == "answered":
            told = f"{node.rows} rows" + " (more were cut)" * node.truncated
            scope = " of its own tasks there" * (node.scope == "own")
            said += f": {told}{scope}, {node.ms:.0f} ms, log at row {node.head_seq}"
        else:
            said += f" ({one_line(node.code)}): {one_line(node.reason, 300)}"
            hint = node.hint.replace("\n", "\n" + " " * (width + 4))
            said += f"\n{'':<{width}}  next: {hint}" * bool(node.hint)
        output.say(said)
    good = sum(node.state == "answered" for node in view.nodes)
    output.say(f"{good} of {len(view.nodes)} nodes answered")


def end(view: SqlView) -> None:
    """End with the status of a failed query where no node has answered one of several."""
    if view.nodes and all(node.state != "answered" for node in view.nodes):
        raise typer.Exit(QueryRefused.exit_status)
