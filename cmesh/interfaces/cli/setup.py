"""`cmesh setup`: the wizard at a terminal. The same steps, plans and undo as an agent's tools have.

Enter takes the answer that is offered, `b` goes back, `q` ends it. What was applied stays; run
again it goes on from there.
"""

import json
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from cmesh.daemon.setup_answers import SetupChangeView, SetupPeerView, SetupStepView, SetupView
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.cli import confirm, output
from cmesh.interfaces.cli.options import JsonOption, from_here
from cmesh.interfaces.cli.session import call, checked
from cmesh.setup.grants import snippet
from cmesh.text import one_line

__all__ = ["register"]

WAIT_S = 40
"""One look that waits; the wizard looks again until the person ends it."""

_NOT_HERE = "verify"
"""The step whose doer is the other machine."""

PROMPTS_MOST = 5
"""How often a step is asked for anew whose answers cannot be used."""

_MARKS = {True: "done", False: "to do"}


class _Back(Exception):
    """Raised when the person goes back to the question before."""


class _Quit(Exception):
    """Raised when the person ends the wizard."""


@dataclass(slots=True)
class _Given:
    """What was answered already: by the command line, and by the person (`typed`)."""

    name: str = ""
    control_url: str = ""
    auth_key_file: str = ""
    keep_text: str = ""
    peer: str = ""
    allow: str = ""
    directory: str = ""
    repository: str = ""
    runners: list[str] = field(default_factory=list[str])
    typed: set[str] = field(default_factory=set[str])

    def answer(self, name: str, text: str) -> None:
        """Take what the person says to a question."""
        setattr(self, name, text)
        self.typed.add(name)

    def forget(self) -> None:
        """Forget what the person said, so that it is asked again."""
        for name in self.typed:
            setattr(self, name, "")
        self.typed.clear()


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(setup)


def setup(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    step: Annotated[
        str,
        typer.Option(
            metavar="STEP", help="Only this step: machine, agents, peer, pair or service."
        ),
    ] = "",
    name: Annotated[str, typer.Option(help="This machine's name on the tailnet.")] = "",
    control_url: Annotated[
        str, typer.Option(metavar="URL", help="Control server, when it is not Tailscale's.")
    ] = "",
    auth_key_file: Annotated[
        str, typer.Option(metavar="FILE", help="Auth key, for a machine without a person.")
    ] = "",
    keep_text: Annotated[
        str,
        typer.Option(metavar="TIME", help="How long prompts and outputs are kept: 30d, forever."),
    ] = "",
    peer: Annotated[str, typer.Option(help="The other machine.")] = "",
    allow: Annotated[
        str, typer.Option(help="With it: ask it, work for it, or both: ask, work, both.")
    ] = "",
    directory: Annotated[
        str, typer.Option("--directory", "-C", help="The one directory here that it may ask about.")
    ] = "",
    repository: Annotated[
        str, typer.Option(help="The directory here whose agents may ask it.")
    ] = "",
    runner: Annotated[
        list[str] | None, typer.Option(help="Agent here that may work for it; may be repeated.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the newest step back.")] = False,
    grants: Annotated[
        bool, typer.Option("--grants", help="Print the lines for your tailnet's policy file.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the change of --step; change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set this machine up, step by step, and let two machines work together.

    Each step shows its exact change of `config.toml` and every side effect, and asks before it is
    applied. Without a terminal, or with --json, it shows how far the machine is set up; with
    --dry-run it shows one step's change.
    """
    if grants:
        output.data(snippet())
        return
    given = _Given(
        name=name,
        control_url=control_url,
        auth_key_file=from_here(auth_key_file),
        keep_text=keep_text,
        peer=peer,
        allow=allow,
        directory=from_here(directory),
        repository=from_here(repository),
        runners=list(runner or ()),
    )
    for one in ("machine", "peer"):  # a wrong word is said before anything is asked or shown
        _arguments(one, given)
    if step:
        _arguments(step, given)
    if dry_run:
        _dry(step, given, as_json=as_json)
    elif undo:
        _undo(step, as_json=as_json)
    elif as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        view = _check()
        if as_json:
            output.print_json(view)
        else:
            _print(view)
    else:
        _walk(step, given)


def _dry(step: str, given: _Given, *, as_json: bool) -> None:
    view = _plan(step or "machine", given, dry_run=True)
    if as_json:
        output.print_json(view)
        return
    if not (view.plan.diff or view.plan.effects):
        output.say(f"{view.plan.step}: nothing to change")
        return
    output.data("\n".join([view.plan.diff, *(f"* {effect}" for effect in view.plan.effects)]))


def _undo(step: str, *, as_json: bool) -> None:
    arguments = checked(SetupUndoArguments, step=step or None)
    view = call(lambda client: client.setup_undo(arguments))
    if view.plan.state == "waiting" and sys.stdin.isatty() and sys.stdout.isatty():
        view = _confirmed() or view
    if as_json:
        output.print_json(view)
        return
    output.data(f"{view.plan.state}: {view.plan.title}")
    if view.plan.state == "waiting":
        output.hint("cmesh confirm")


def _walk(only: str, given: _Given) -> None:
    """Go on from what is there until nothing is left, or the person ends it."""
    done: set[str] = {only} if only else set()
    try:
        if only:
            _take(only, _check(), given)
            return
        _print(_check())
        while True:
            view = _check()
            step = _todo(view, done)
            if step == "login":
                _wait_for_login(view)
                continue
            if not step:
                _end(view)
                return
            _take(step, view, given)
            done.add(step)
    except (_Quit, _Back):
        output.say(
            "what was applied stays; `cmesh setup` goes on from here, `--undo` takes it back"
        )


def _todo(view: SetupView, done: set[str]) -> str:
    """Return the step that comes next here; empty = none that this machine can take alone."""
    for step in view.steps:
        if step.done or step.name in done or step.name == _NOT_HERE or not step.offered:
            continue
        if step.name == "peer" and not any(peer.is_cmesh for peer in view.peers):
            continue
        return step.name
    return ""


def _take(step: str, view: SetupView, given: _Given) -> None:
    """Ask for what a step needs, show its change, apply it when the person says so.

    Raises:
        UsageError: an option of the command line is wrong, or what was typed, again and again.
    """
    if step == "machine":
        _plan(step, given, dry_run=True)  # what asking cannot mend is said first
    tries = 0
    while True:
        if step == "machine":
            _ask_machine(given)
        elif step in ("peer", "pair"):
            _ask_peer(view, given)
        try:
            change = _plan(step, given)
        except UsageError as error:
            tries += 1
            if not given.typed or tries == PROMPTS_MOST:
                raise
            output.print_error(error, as_json=False)
            given.forget()
            continue
        if change.plan.state == "nothing":
            output.say(f"{step}: nothing to change")
            return
        try:
            applied = _confirmed()
        except _Back:
            given.keep_text = given.allow = given.peer = ""
            given.forget()
            continue
        if applied is not None:
            output.say(applied.plan.state)
        return


def _ask_machine(given: _Given) -> None:
    if not given.keep_text:
        question = "How long are prompts and outputs of tasks kept (30d, 90d, forever)?"
        given.answer("keep_text", _line(question, "30d"))


def _ask_peer(view: SetupView, given: _Given) -> None:
    peers = [peer for peer in view.peers if peer.is_cmesh and not (peer.asks or peer.works)]
    peers = peers or [peer for peer in view.peers if peer.is_cmesh]
    if not given.peer:
        given.answer("peer", _chosen(peers))
    if not given.allow:
        question = f"Shall this machine ask {given.peer}, work for it, or both (ask, work, both)?"
        given.answer("allow", _line(question, "ask"))
    if given.allow != "ask" and not given.directory:
        question = f"About which one directory here may {given.peer} ask?"
        given.answer("directory", _line(question, ""))
    if given.allow != "work" and not given.repository:
        question = f"From which directory here is {given.peer} asked?"
        given.answer("repository", _line(question, from_here(".")))


def _chosen(peers: list[SetupPeerView]) -> str:
    if len(peers) == 1:
        return peers[0].name
    names = ", ".join(peer.name for peer in peers)
    return _line(f"Which machine ({names})?", peers[0].name if peers else "")


def _line(question: str, offered: str) -> str:
    """Return what the person types; Enter = what is offered.

    Raises:
        _Back, _Quit: the person wants that.
    """
    shown = one_line(f"{question} [{offered}]" if offered else question, 800)
    sys.stdout.write(f"{shown} ")
    sys.stdout.flush()
    line = sys.stdin.readline()
    text = line.strip()
    if not line or text == "q":
        raise _Quit
    if text == "b":
        raise _Back
    return text or offered


def _confirmed() -> SetupChangeView | None:
    """Show the change that waits and apply it, or drop it; None = dropped.

    Raises:
        _Back, _Quit: it is dropped, and the person wants that.
    """
    pending = call(lambda client: client.setup_pending())
    if pending.plan is None:
        return None
    confirm.show(pending)
    try:
        if pending.by_code:
            accept = confirm.said(pending)
        else:
            output.forget_typed()
            accept = _line("Apply it ([y]es, [n]o, [b]ack, [q]uit)?", "n").lower() in ("y", "yes")
    except (_Back, _Quit):
        confirm.answer(pending, accept=False)
        raise
    view = confirm.answer(pending, accept=accept)
    return view if accept else None


def _wait_for_login(view: SetupView) -> None:
    if view.phase in ("failed", "down"):
        raise CmeshError(f"the node is {view.phase}", hint="`cmesh status` says why")
    if not view.login_url:
        call(lambda client: client.login())
        return
    output.data(
        f"Open this page and log this machine in; Ctrl-C ends the waiting:\n{view.login_url}"
    )
    _check(WAIT_S)


def _end(view: SetupView) -> None:
    _print(view)
    if view.next.user:
        output.say(f"next: {view.next.user}")
    if view.next.tool == "delegate":
        words = view.next.arguments
        output.say(
            f"try it: cmesh delegate {words['peer']} {json.dumps(words['prompt'])}"
            f" -C {words['directory']} --runner {words['runner']}"
        )


def _check(wait_s: float = 0) -> SetupView:
    arguments = SetupCheckArguments(wait_s=wait_s)
    return call(lambda client: client.setup_check(arguments))


def _plan(step: str, given: _Given, *, dry_run: bool = False) -> SetupChangeView:
    arguments = _arguments(step, given, dry_run=dry_run)
    return call(lambda client: client.setup_step(arguments))


def _arguments(step: str, given: _Given, *, dry_run: bool = False) -> SetupStepArguments:
    """Return what is wished of a step.

    Raises:
        UsageError: there is no such step, or an option has not the form that it must have.
    """
    fields: dict[str, Any] = {"step": step, "dry_run": dry_run}
    if step == "machine":
        names = ("name", "control_url", "auth_key_file", "keep_text")
        fields |= {name: getattr(given, name) for name in names}
    if step in ("peer", "pair"):
        names = ("peer", "directory", "repository", "runners")
        fields |= {name: getattr(given, name) for name in names} | {"allow": given.allow or None}
    return checked(SetupStepArguments, **fields)


def _print(view: SetupView) -> None:
    rows = [(step.name, _stands(step)) for step in view.steps]
    runners = ", ".join(runner.name for runner in view.runners if runner.ready)
    system = view.tailscale
    rows += [
        ("runners", runners or "none is ready to work for others"),
        ("tailscale", f"{system.state or 'found'}, left alone" if system else ""),
        ("waiting", f"{view.waiting.title}: `cmesh confirm`" if view.waiting else ""),
        ("problem", view.problem),
    ]
    output.pairs(rows)


def _stands(step: SetupStepView) -> str:
    if step.what.startswith("optional: "):  # nobody has to do it, and not everybody can
        return step.what
    return f"{_MARKS[step.done]}: {step.what}"
