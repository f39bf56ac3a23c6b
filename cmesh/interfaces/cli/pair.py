"""The command `pair`: what two persons, or one between two terminals, make two machines trust by.

What is shown and asked goes to the terminal; stdout has the result alone. No code is ever an
argument: other processes see those.
"""

from typing import Annotated

import typer

from cmesh.daemon.pair_calls import PairArguments, PairView, UnpairArguments
from cmesh.errors import CmeshError, DaemonRestarted, PairingEnded, PairingRefused, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import DETACHED_EXIT, exit_of
from cmesh.interfaces.cli.options import JsonOption, complete_peer, complete_runner
from cmesh.interfaces.cli.pair_rights import FIRST_QUESTION, Wishes, print_rules, settle
from cmesh.interfaces.cli.session import call, checked

__all__ = ["pair"]

LOOK_S = 20.0
"""How long one look waits for news of the pairing."""

RESTARTS = 5
"""How often a pairing begins anew because the daemon went away under it."""


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
    try:
        view = _confirmed(
            checked(PairArguments, peer=peer, directory=directory or "", runners=runner)
            if directory or runner
            else checked(PairArguments, peer=peer)
        )
    except KeyboardInterrupt:
        _stop(peer)
        output.say("the pairing is ended; nothing was changed")
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


def _confirmed(begin: PairArguments) -> PairView:
    """Go through the pairing until both keys are confirmed.

    Raises:
        UsageError, RunnerUnavailable, RootRefused: what the peer is to be allowed cannot be.
        PairingEnded: it ended without; says why.
        PairingRefused: too many codes were wrong.
    """
    for _ in range(RESTARTS):
        try:
            view = _step(begin)
            who = f"{view.node_id}, {view.user}" if view.user else view.node_id
            output.say(f"pairing with {view.peer} ({who})")
            while view.phase not in ("confirmed", "ended"):
                view = _showing(view) if view.phase == "showing" else _typing(view)
        except DaemonRestarted:
            output.say("the daemon restarted: the pairing begins anew")
            continue
        if view.phase == "confirmed":
            return view
        if not view.tries_left:
            raise PairingRefused(
                f"{view.reason}: a pairing with `{view.peer}` is refused for a while",
                hint=f"make sure that `{view.peer}` is the machine you mean: `cmesh peers`",
            )
        raise PairingEnded(
            f"the pairing with `{view.peer}` is over: {view.reason}",
            hint=f"cmesh pair {view.peer}, and `cmesh pair` on {view.peer}",
        )
    raise DaemonRestarted(f"the daemon went away {RESTARTS} times while pairing")


def _showing(view: PairView) -> PairView:
    """Show the code, and wait until it was typed on the other machine."""
    if view.note:
        output.say(f"{view.peer} cannot be reached yet: {view.note}")
        output.say(f"start cmesh there; {view.peer} is asked again as long as this waits")
    half = len(view.code) // 2
    output.say(f"on {view.peer}, at a terminal of your own, run `cmesh pair` and type this code:")
    output.say(f"\n    {view.code[:half]} {view.code[half:]}\n")
    output.say(
        f"it is good for {output.duration(view.expires_s)} and for {view.peer} alone;"
        " waiting … (Ctrl-C ends it)"
    )
    code, tries = view.code, view.tries_left
    while view.phase == "showing" and view.code == code:
        look = PairArguments(peer=view.node_id, step="look", known_phase="showing", wait_s=LOOK_S)
        view = _step(look)
        if view.tries_left < tries and view.tries_left:
            output.say(f"a wrong code was typed there; {_tries(view.tries_left)} left")
        tries = view.tries_left
    return view


def _typing(view: PairView) -> PairView:
    """Ask for the code that the other machine shows, until it is right or the pairing over."""
    tries = view.tries_left
    output.say(f"{view.peer} shows a code")
    while view.phase == "typing":
        code = output.ask("code: ")
        try:
            view = _step(PairArguments(peer=view.node_id, step="code", code=code[:64]))
        except UsageError as error:
            output.say(error.message)
            continue
        if view.phase == "typing" and view.tries_left < tries:
            output.say(f"that is not the code; {_tries(view.tries_left)} left")
        tries = view.tries_left
    return view


def _tries(count: int) -> str:
    return "1 try is" if count == 1 else f"{count} tries are"


def _step(arguments: PairArguments) -> PairView:
    return call(lambda client: client.pair(arguments))


def _stop(peer: str) -> None:
    try:
        _step(PairArguments(peer=peer, step="stop"))
    except CmeshError as error:  # it is over already, or the daemon is gone with it
        output.say(error.message)


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
