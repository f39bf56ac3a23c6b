"""The commands about peers: who is on the tailnet, what they allow, whose key is trusted."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from cmesh.daemon.answers import PeersView, PeerView
from cmesh.daemon.arguments import TrustArguments, UntrustArguments
from cmesh.errors import UnknownPeer, UsageError
from cmesh.interfaces.age import kept_text
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption, PeerArgument
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.machine import machine_line, machine_lines
from cmesh.nearest import did_you_mean

__all__ = ["register"]

UNHEARD = "not heard of yet"
"""For what a peer says as soon as a link is open, and has not said in this life of the daemon."""


_SAID_BY = {
    "delegate": "on first use: nobody has compared its key, `cmesh pair` does",
    "owner": "its fingerprint compared by you",
    "pair": "confirmed on both machines by a code",
}


class _Peers(TyperGroup):
    """The group; one word that is none of its commands is a peer to show."""

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        # Any: typer's own copy of click, which has these types, is private to it.
        words = [word for word in args if not word.startswith("-")]
        if len(words) == 1 and args[0] == words[0] and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


_group = typer.Typer(
    cls=_Peers,
    help="List the tailnet's nodes, look at one (`cmesh peers NAME`), trust one or trust it no "
    "more.",
)


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
        [
            "NAME",
            "NODE",
            "WHO",
            "ONLINE",
            "LINK",
            "TRUST",
            "FINGERPRINT",
            "MAY ASK",
            "RUNNERS",
            "PATHS",
            "MACHINE",
        ],
        [_row(peer) for peer in view.peers],
        may_lack=("LINK", "MAY ASK", "RUNNERS", "PATHS", "MACHINE", "NODE", "WHO", "FINGERPRINT"),
    )


@_group.command()
def show(*, peer: PeerArgument, as_json: JsonOption = False) -> None:
    """Show one peer: who it is, its trust, and what I may do there as it said itself."""
    view = _find(call(lambda client: client.list_peers()), peer)
    if as_json:
        output.print_json(view)
        return
    output.pairs(_facts(view))
    if view.last_contact_s is None:
        output.say(f"what you may ask of {view.name} is not known yet")
        output.hint("a peer says it when a link opens, which the first `cmesh delegate` to it does")
    elif not view.operations:
        output.say(f"{view.name} lets you ask for nothing")


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


@_group.command()
def untrust(*, peer: PeerArgument, as_json: JsonOption = False) -> None:
    """Trust a peer's key no more.

    Ends its link at once, and its tasks here as `on_revoke` of their rule says. Tasks
    handed to it wait until you trust it again. Nothing but `cmesh peers trust` does that.
    """
    arguments = checked(UntrustArguments, peer=peer)
    view = call(lambda client: client.untrust_peer(arguments))
    if as_json:
        output.print_json(view)
        return
    output.data(f"{view.name} untrusted {view.fingerprint}")
    for task_id in view.ended:
        output.say(f"task {task_id} of {view.name} is ended")


def _confirmed(name: str) -> str:
    """Return the fingerprint that the person at the terminal agreed to."""
    if not output.somebody():
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
    output.forget_typed()
    sys.stderr.write("trust it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not trusted", hint="nothing was changed")
    return peer.fingerprint


def _find(view: PeersView, name: str) -> PeerView:
    for peer in view.peers:
        if name in (peer.name, peer.node_id, *peer.addresses):
            return peer
    hint = did_you_mean(name, [peer.name for peer in view.peers]) or None
    raise UnknownPeer(f"no peer is named `{name}`", hint=hint)


def _facts(peer: PeerView) -> list[tuple[str, str]]:
    contact = peer.last_contact_s
    return [
        ("name", peer.name),
        ("node", peer.node_id),
        ("who", peer.user or ", ".join(peer.tags)),
        ("addresses", ", ".join(peer.addresses)),
        ("online", _online(peer)),
        ("link", peer.link),
        ("heard", f"{output.duration(contact)} ago" if contact is not None else ""),
        ("trust", _trust(peer)),
        ("fingerprint", peer.fingerprint),
        ("version", peer.version),
        ("operations", ", ".join(peer.operations)),
        ("profiles", ", ".join(peer.may_ask)),
        ("runners", ", ".join(peer.runners)),
        ("paths", "\n".join(peer.paths)),
        ("keeps", kept_text(peer.keeps)),
        ("machine", "\n".join(machine_lines(peer.machine)) if peer.machine else ""),
        ("told", _told(peer)),
    ]


def _trust(peer: PeerView) -> str:
    said = _SAID_BY.get(peer.trusted_by, "") if peer.trust == "trusted" else ""
    return f"{peer.trust}, {said}" if said else peer.trust


def _told(peer: PeerView) -> str:
    """Say how old a peer's word about its machine is."""
    if peer.machine is None:
        return ""
    stale = ": it may be otherwise by now" if peer.machine.stale else ""
    return f"{output.duration(peer.machine.known_s)} ago{stale}"


def _online(peer: PeerView) -> str:
    online = "expired" if peer.expired else "yes" if peer.online else "no"
    return f"{online}, shared in" if peer.shared else online


def _row(peer: PeerView) -> list[str]:
    return [
        peer.name,
        peer.node_id,
        peer.user or ", ".join(peer.tags),
        _online(peer),
        peer.link,
        peer.trust,
        peer.fingerprint,
        ", ".join(peer.may_ask) or (UNHEARD if peer.last_contact_s is None else "nothing"),
        ", ".join(peer.runners),
        ", ".join(peer.paths),
        _machine(peer),
    ]


def _machine(peer: PeerView) -> str:
    if peer.machine is None:
        return ""
    stale = f" ({output.duration(peer.machine.known_s)} ago)" if peer.machine.stale else ""
    return f"{machine_line(peer.machine)}{stale}"
