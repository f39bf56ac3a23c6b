"""The commands about groups of tasks: handed out at once, waited for, shown side by side, ended."""

from collections.abc import Callable
from typing import NoReturn

import typer

from cmesh.daemon.answers import GroupView
from cmesh.daemon.arguments import CancelGroupArguments, FanOutArguments, GroupArguments
from cmesh.errors import AcceptanceFailed, DaemonRestarted, by_code
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import DETACHED_EXIT, exit_of
from cmesh.interfaces.cli.patch import apply_hint
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.matrix import COLUMNS, rows, summed
from cmesh.model import ENDED, TaskState

__all__ = ["cancel_group", "hand_out_all", "is_group", "show_group", "status_of", "wait_group"]

POLL_WAIT_S = 20.0
"""How long one call waits for the next end; another one follows at once."""

RECONNECTS = 20


def is_group(reference: str) -> bool:
    """Say whether a reference names a group and not a task."""
    return reference.startswith("g-")


def hand_out_all(arguments: FanOutArguments, *, wait: bool, as_json: bool) -> NoReturn:
    """Ask several peers for a task each; then wait for all ends, or print the group's name."""

    def asked() -> GroupView:
        try:
            return call(lambda client: client.fan_out(arguments))
        except DaemonRestarted:
            output.say("the daemon restarted; asking again")
            return call(lambda client: client.fan_out(arguments))

    def named() -> GroupView:
        view = asked()
        output.say(f"group {view.group}")  # at once: whoever is killed leaves its name behind
        return view

    if wait:
        _until_end(named, as_json=as_json)
    view = asked()
    _note(view)
    output.print_json(view) if as_json else output.data(view.group)
    raise typer.Exit(0)


def wait_group(reference: str, *, as_json: bool) -> NoReturn:
    """Wait for all ends and print them side by side."""
    _until_end(lambda: _get(reference), as_json=as_json)


def show_group(reference: str, *, as_json: bool) -> None:
    """Print a group's tasks side by side, as they are now."""
    view = _get(reference)
    if as_json:
        output.print_json(view)
        return
    _print(view)


def cancel_group(reference: str, reason: str, *, as_json: bool) -> None:
    """Ask for the end of each of a group's tasks."""
    arguments = checked(CancelGroupArguments, group=reference, reason=reason)
    view = call(lambda client: client.cancel_group(arguments))
    if as_json:
        output.print_json(view)
        return
    for task in view.tasks:
        output.data(f"{task.task_id} {task.peer} {task.state}")
    if not view.done:
        output.hint(f"cmesh wait {view.group}")


def _get(reference: str) -> GroupView:
    arguments = checked(GroupArguments, group=reference)
    return call(lambda client: client.get_group(arguments))


def _until_end(begin: Callable[[], GroupView], *, as_json: bool) -> NoReturn:
    view: GroupView | None = None
    told: set[str] = set()
    try:
        view = begin()
        _note(view)
        _tell(view, told, quiet=as_json)
        while not view.done:
            view = _next(view)
            _tell(view, told, quiet=as_json)
    except KeyboardInterrupt:
        if view is not None:
            output.say(f"no longer waiting; {summed(view)}, and the others go on")
            output.hint(f"cmesh wait {view.group}, or cmesh cancel {view.group}")
        raise typer.Exit(DETACHED_EXIT) from None
    if as_json:
        output.print_json(view)
    else:
        _print(view)
    raise typer.Exit(status_of(view))


def _next(view: GroupView) -> GroupView:
    """Return the group with one more end, or as it is after a while; over restarts."""
    arguments = checked(
        GroupArguments, group=view.group, wait_s=POLL_WAIT_S, known_ended=view.ended
    )
    for _attempt in range(RECONNECTS):
        try:
            now = call(lambda client: client.get_group(arguments))
        except DaemonRestarted:
            output.say("the daemon restarted; asking again")
        else:
            # What only the first answer had stays: a peer that was away has no task.
            known = {one.peer for one in now.refused}
            kept = [one for one in view.refused if one.peer not in known]
            return now.model_copy(update={"refused": [*now.refused, *kept]})
    raise DaemonRestarted(f"the daemon went away {RECONNECTS} times while waiting")


def _note(view: GroupView) -> None:
    if view.prompt_redacted:
        output.say(f"the prompt had {view.prompt_redacted} secrets in it: sent without them")
    if view.chosen:
        output.say(view.chosen)
    if view.repeated:
        output.say(f"the same was asked before: this is {view.group}, no new one")
    for one in view.refused:
        output.say(f"{one.peer} was given no task [{one.code}]: {one.reason}")
        if one.hint:
            output.hint(one.hint)


def _tell(view: GroupView, told: set[str], *, quiet: bool) -> None:
    """Say which tasks have ended since the last time."""
    for task in view.tasks:
        if task.state in ENDED and task.task_id not in told:
            told.add(task.task_id)
            if not quiet:
                state = task.state.value.replace("_", " ")
                if task.code == AcceptanceFailed.code:
                    state = f"{state}, by its word: its acceptance command did not"
                output.say(f"{task.peer} {state} ({view.ended} of {len(view.tasks)} ended)")


def _print(view: GroupView) -> None:
    output.table(COLUMNS, rows(view))
    output.say(summed(view))
    if view.done:
        patched = next((t for t in view.tasks if t.patch is not None and t.patch.bytes), None)
        if patched is not None and patched.patch is not None:
            output.hint(apply_hint(patched.task_id, patched.patch))
        unsure = next((t for t in view.tasks if t.code == AcceptanceFailed.code), None)
        if unsure is not None:
            output.hint(f"cmesh result {unsure.task_id} --part acceptance says what failed")
        output.hint("cmesh result ID has one peer's whole answer")
        for task in view.tasks:
            if task.state is TaskState.WAITING_INPUT:
                output.say(f"{task.peer} asks back: {task.question}")
                output.hint(f"cmesh reply {task.task_id} ANSWER")
    else:
        output.hint(f"cmesh wait {view.group}")


def status_of(view: GroupView) -> int:
    """Return 0 when every peer that was asked is done, else the first other one's status."""
    for task in view.tasks:
        if status := exit_of(task):
            return status
    return by_code(view.refused[0].code).exit_status if view.refused else 0
