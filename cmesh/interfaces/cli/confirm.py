"""`cmesh confirm`: a person's word on a change that an agent, or a wizard, has planned.

At a terminal only, and not below an agent or a task. The daemon looks at this process as well.
"""

import sys

import typer

from cmesh.daemon.setup_answers import SetupChangeView, SetupPendingView
from cmesh.daemon.setup_arguments import SetupConfirmArguments
from cmesh.errors import PlanGone, TaskRefused, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.pair_code import proved
from cmesh.interfaces.cli.session import call, checked
from cmesh.text import one_line, reveal

__all__ = ["answer", "ask", "register", "require_terminal", "said", "show"]

DECLINED_EXIT = 1
NAME_LENGTH = 80
_YES = ("y", "yes")
_OURS = "cmesh cli "
"""How the terminal's own wizard calls itself."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(confirm)


def confirm(*, as_json: JsonOption = False) -> None:
    """Look at the change that waits for you, and apply it or drop it.

    `cmesh setup`, or an agent that you asked to set cmesh up, has planned it. It shows the exact
    change of `config.toml` and every side effect, and asks. Where two machines are to trust each
    other it shows a code, or asks for the one that the other machine shows: the code is your yes,
    and Ctrl-C your no. It needs a terminal of your own: an agent or a task cannot run it. Ends
    with status 1 when you say no.
    """
    require_terminal()
    pending = call(lambda client: client.setup_pending(), start=False)
    if pending.plan is None:
        raise PlanGone("no change waits for you")
    show(pending)
    accept = said(pending)
    view = answer(pending, accept=accept)
    if as_json:
        output.print_json(view)
    else:
        _told(view)
    if not accept:
        raise typer.Exit(DECLINED_EXIT)


def require_terminal() -> None:
    """Refuse early what the daemon would refuse.

    Raises:
        TaskRefused: nobody can be at a terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise TaskRefused(
            "nobody is at a terminal to confirm this",
            hint="open a terminal of your own, outside of every agent, and run `cmesh confirm`",
        )


def show(pending: SetupPendingView) -> None:
    """Show the change whole, on the terminal: no pager hides a part, no control character moves it."""
    plan = pending.plan
    if plan is None:
        return
    # It names itself: a line of its own there could pass for one of the change.
    asked_by = "" if pending.asked_by.startswith(_OURS) else one_line(pending.asked_by, NAME_LENGTH)
    who = f", planned by {asked_by}" if asked_by else ""
    lines = [_in_one(plan.title) + who, ""]
    if plan.diff:
        lines += [plan.diff.rstrip("\n"), ""]
    lines += [f"* {_in_one(effect)}" for effect in plan.effects]
    lines += [f"! {_in_one(text)}" for text in plan.widens]
    sys.stdout.write(reveal("\n".join(lines)) + "\n\n")
    sys.stdout.flush()


def _in_one(text: str) -> str:
    """Return a text with its line ends written out: names in it come from the tailnet."""
    return text.replace("\n", "<U+000A>")


def ask(question: str) -> bool:
    """Return whether the person at the terminal says yes now; anything else is no. Blocks.

    Raises:
        UsageError: the terminal is gone.
    """
    output.forget_typed()
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise UsageError("nobody answered", hint="nothing was changed; run it again")
    return line.strip().lower() in _YES


def said(pending: SetupPendingView, question: str = "apply it?") -> bool:
    """Return whether the person says yes to what was shown: by a code where one is asked for.

    Blocks; a code that is not right again and again ends it.

    Raises:
        UsageError: the terminal is gone.
        PairingEnded, PairingRefused: no code was right; the change waits on.
    """
    if not pending.by_code:
        return ask(question)
    sys.stdout.write("A code is your yes to all of this, on both machines; Ctrl-C is your no.\n")
    sys.stdout.flush()
    paired = proved(pending.by_code)
    return paired is not None and (paired.by_this_command or ask(question))


def answer(pending: SetupPendingView, *, accept: bool) -> SetupChangeView:
    """Give the word to the daemon, for exactly what was shown, and do here what it leaves. Blocks.

    Raises:
        TaskRefused, PlanGone: it is not taken.
        ServiceFailed: the service manager refused, or this terminal would give it something else.
    """
    arguments = checked(
        SetupConfirmArguments,
        plan_id=pending.plan.plan_id if pending.plan else "",
        sha256=pending.sha256,
        accept=accept,
    )
    view = call(lambda client: client.setup_confirm(arguments), start=False)
    if view.plan.state != "confirmed" or view.plan.unit is None:
        return view
    from cmesh.interfaces.cli.servicing import carry_out

    carry_out(view.plan.unit)
    done = view.plan.model_copy(update={"state": "applied"})
    return view.model_copy(update={"plan": done})


def _told(view: SetupChangeView) -> None:
    output.data("applied" if view.plan.state == "applied" else "dropped; nothing was changed")
    for note in view.plan.notes:
        output.say(note)
    if view.plan.state == "applied" and view.next.user:
        output.say(f"next: {view.next.user}")
