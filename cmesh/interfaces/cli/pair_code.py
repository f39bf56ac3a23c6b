"""The code of a pairing at a terminal: shown, or typed, until both keys are proved or it is over.

What is shown and asked goes to the terminal's stderr. No code is ever an argument: other processes
see those.
"""

from dataclasses import dataclass

from cmesh.daemon.pair_calls import PairArguments, PairView
from cmesh.errors import CmeshError, DaemonRestarted, PairingEnded, PairingRefused, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.session import call

__all__ = ["Paired", "confirmed", "proved", "stop"]

LOOK_S = 20.0
"""How long one look waits for news of the pairing."""

RESTARTS = 5
"""How often a pairing begins anew because the daemon went away under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A pairing whose keys a code has proved.

    Attributes:
        by_this_command: this command has shown, or read, the code; not one before it.
    """

    view: PairView
    by_this_command: bool


def proved(node_id: str) -> Paired | None:
    """Have a code prove a machine's key; None = the person ended it, and nothing waits there.

    Blocks as long as a code is good.

    Raises:
        PairingEnded, PairingRefused: as `confirmed`.
    """
    try:
        paired = confirmed(PairArguments(peer=node_id))
    except KeyboardInterrupt:
        output.say(stop(node_id))
        return None
    output.say(f"confirmed: {paired.view.peer} has the key {paired.view.fingerprint}")
    return paired


def confirmed(begin: PairArguments) -> Paired:
    """Go through the pairing until both keys are confirmed. Blocks as long as a code is good.

    Raises:
        UsageError, RunnerUnavailable, RootRefused: what the peer is to be allowed cannot be.
        PairingEnded: it ended without; says why.
        PairingRefused: too many codes were wrong.
    """
    asked = False
    for _ in range(RESTARTS):
        try:
            view = _step(begin)
            who = f"{view.node_id}, {view.user}" if view.user else view.node_id
            output.say(f"pairing with {view.peer} ({who})")
            _warn(view)
            while view.phase not in ("confirmed", "ended"):
                asked = True
                view = _showing(view) if view.phase == "showing" else _typing(view)
        except DaemonRestarted:
            output.say("the daemon restarted: the pairing begins anew")
            continue
        if view.phase == "confirmed":
            return Paired(view=view, by_this_command=asked)
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


def _warn(view: PairView) -> None:
    """Tell what a rule for this machine would say of it, and why that is to be looked at."""
    if view.shared:
        output.say(f"! {view.peer} is a node of another tailnet")
    if view.router:
        output.say(
            f"! {view.peer} routes subnets: what comes from it may be of a machine behind it"
        )


def _showing(view: PairView) -> PairView:
    """Show the code, and wait until it was typed on the other machine."""
    if view.note:
        output.say(f"{view.peer} cannot be reached yet: {view.note}")
        output.say(f"start cmesh there; {view.peer} is asked again as long as this waits")
    half = len(view.code) // 2
    output.say(
        f"on {view.peer}, at a terminal of your own, run `cmesh pair`, or `cmesh confirm` where a"
        " change waits, and type this code:"
    )
    output.say(f"\n    {view.code[:half]} {view.code[half:]}\n")
    output.say(
        f"it is good for {output.duration(view.expires_s)} and for {view.peer} alone;"
        " waiting … (Ctrl-C ends it)"
    )
    code, tries = view.code, view.tries_left
    while view.phase == "showing" and view.code == code:
        view = _step(
            PairArguments(
                peer=view.node_id,
                step="look",
                known_phase="showing",
                known_tries=tries,
                wait_s=LOOK_S,
            )
        )
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


def stop(peer: str) -> str:
    """End the pairing that is under way, if one is; return what became of it, for the person."""
    try:
        view = _step(PairArguments(peer=peer, step="stop"))
    except CmeshError as error:  # it is over already, or the daemon is gone with it
        return (
            f"{error.message}; `cmesh peers {peer}` says whether the code was typed before that,"
            " and its key is trusted"
        )
    if view.phase != "confirmed":
        return "the pairing is ended; nothing was changed"
    return (
        f"the code was typed before that: the key of {view.peer} is trusted, and no rule was"
        f" written; `cmesh peers untrust {view.peer}` takes that back"
    )
