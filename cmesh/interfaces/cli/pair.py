"""The command `pair`: what two persons, or one between two terminals, make two machines trust by.

What is shown and asked goes to the terminal; stdout has the result alone. No code is ever an
argument: other processes see those.
"""

from typing import Annotated

import typer

from cmesh.daemon.pair_calls import PairArguments, UnpairArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import DETACHED_EXIT, exit_of
from cmesh.interfaces.cli.options import JsonOption, complete_peer, complete_runner, from_here
from cmesh.interfaces.cli.pair_code import confirmed, stop
from cmesh.interfaces.cli.pair_rights import FIRST_QUESTION, Wishes, print_rules, settle
from cmesh.interfaces.cli.session import call, checked

__all__ = ["pair"]


def pair(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    peer: Annotated[
        str,
        typer.Argument(
            metavar="[PEER]",
            help="Name or node id, see `cmesh peers`; left out: the machine that has asked.",
            autocompletion=complete_peer,
        ),
    ] = "",
    directory: Annotated[
        str | None,
        typer.Option(
            "--directory",
            "-C",
            help="Directory here that PEER may ask about; '' = none. Not asked for then.",
        ),
    ] = None,
    runner: Annotated[
        list[str],
        typer.Option(
            help="Who works for PEER here; repeat for more. Left out: every agent that can.",
            autocompletion=complete_runner,
        ),
    ] = [],  # noqa: B006 - typer makes a new one
    ask: Annotated[
        bool | None,
        typer.Option("--ask/--no-ask", help="Whether this machine may ask PEER. Not asked then."),
    ] = None,
    question: Annotated[
        str, typer.Option(metavar="PROMPT", help="The first question to PEER; '' = none.")
    ] = FIRST_QUESTION,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take out the rules that pairing with PEER has written.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make this machine and PEER trust each other, and say what each may ask of the other.

    Run it on both. One shows a code, a person types it on the other; that confirms both cmesh
    keys. Then each side is asked which one directory the other may ask about, read-only, and whether
    it may be asked; narrow rules are written, and a first question is asked. It needs a terminal,
    and is refused to tasks. --undo takes out exactly what it wrote.
    """
    if undo:
        _undo(peer, as_json=as_json)
        return
    if not output.somebody():
        raise UsageError(
            "pairing needs a person at a terminal: it shows a code, or asks for one",
            hint="run it in a terminal of your own, on both machines",
        )
    directory = None if directory is None else from_here(directory)
    try:
        view = confirmed(
            checked(PairArguments, peer=peer, directory=directory or "", runners=runner)
            if directory or runner
            else checked(PairArguments, peer=peer)
        ).view
    except KeyboardInterrupt:
        output.say(stop(peer))
        raise typer.Exit(DETACHED_EXIT) from None
    output.say(f"confirmed: {view.peer} has the key {view.fingerprint}")
    output.say(f"           this machine has {view.own_fingerprint}")
    wishes = Wishes(directory=directory, runners=runner, ask=ask, question=question)
    settled = settle(view, wishes, quiet=as_json)
    if as_json:
        output.print_json(
            {
                "peer": view.peer,
                "node_id": view.node_id,
                "fingerprint": view.fingerprint,
                "own_fingerprint": view.own_fingerprint,
                "rules": [rule.model_dump(mode="json") for rule in settled.rules],
                "task": settled.task.model_dump(mode="json") if settled.task else None,
            }
        )
    if settled.task is not None:
        raise typer.Exit(exit_of(settled.task))


def _undo(peer: str, *, as_json: bool) -> None:
    if not peer:
        raise UsageError("PEER is missing", hint="cmesh pair --undo PEER")
    arguments = checked(UnpairArguments, peer=peer, write=True)
    view = call(lambda client: client.unpair(arguments))
    if as_json:
        output.print_json(view)
        return
    print_rules(view)
    output.say(f"its key is trusted as before; `cmesh peers untrust {view.peer}` takes that back")
