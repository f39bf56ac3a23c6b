"""The commands about peers: who is on the tailnet, and whose cmesh key is trusted."""

import sys
from typing import Annotated

import typer

from cmesh.daemon.operations import PeersView, PeerView, TrustArguments
from cmesh.errors import UnknownPeer, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption, PeerArgument
from cmesh.interfaces.cli.session import call, checked

__all__ = ["register"]

_group = typer.Typer(help="List the tailnet's nodes, or trust one.")


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    app.add_typer(_group, name="peers")


@_group.callback(invoke_without_command=True)
def peers(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the tailnet's nodes: link, trust, what may be asked of them."""
    if context.invoked_subcommand is not None:
        return
    view = call(lambda client: client.list_peers())
    if as_json:
        output.print_json(view)
        return
    output.table(
        ["NAME", "NODE", "WHO", "ONLINE", "LINK", "TRUST", "FINGERPRINT", "MAY ASK", "RUNNERS"],
        [_row(peer) for peer in view.peers],
    )


@_group.command()
def trust(
    *,
    peer: PeerArgument,
    fingerprint: Annotated[
        str, typer.Option(help="The key you compared; without it you are asked on a terminal.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Trust the cmesh key that a peer shows. Compare the fingerprint on its screen first."""
    seen = fingerprint or _confirmed(peer)
    arguments = checked(TrustArguments, peer=peer, fingerprint=seen)
    view = call(lambda client: client.trust_peer(arguments))
    if as_json:
        output.print_json(view)
    else:
        output.data(f"{view.name} {view.trust} {view.fingerprint}")


def _confirmed(name: str) -> str:
    """Return the fingerprint that the person at the terminal agreed to."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "nobody is at a terminal to compare the key",
            hint=f"cmesh peers trust {name} --fingerprint F, with F as `cmesh status` shows there",
        )
    peer = _find(call(lambda client: client.list_peers()), name)
    if not peer.fingerprint:
        raise UsageError(
            f"`{peer.name}` has not shown a cmesh key yet", hint="run `cmesh up` on that machine"
        )
    output.say(f"{peer.name} ({peer.node_id}, {peer.user or ', '.join(peer.tags)})")
    output.say(f"shows the key {peer.fingerprint}; `cmesh status` there must show the same")
    # Not typer.confirm: it writes a blank to stdout, which belongs to the data.
    sys.stderr.write("trust it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not trusted", hint="nothing was changed")
    return peer.fingerprint


def _find(view: PeersView, name: str) -> PeerView:
    for peer in view.peers:
        if name in (peer.name, peer.node_id):
            return peer
    raise UnknownPeer(f"no peer is called `{name}`")


def _row(peer: PeerView) -> list[str]:
    online = "expired" if peer.expired else "yes" if peer.online else "no"
    return [
        peer.name,
        peer.node_id,
        peer.user or ", ".join(peer.tags),
        f"{online}, shared in" if peer.shared else online,
        peer.link,
        peer.trust,
        peer.fingerprint,
        ", ".join(peer.may_ask),
        ", ".join(peer.runners),
    ]
