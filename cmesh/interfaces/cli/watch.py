"""`cmesh watch`: the tasks of all peers as they go on, on a terminal or line by line."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from cmesh.clock import SystemClock
from cmesh.interfaces import screens
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.session import call
from cmesh.interfaces.cli.watching.board import Change
from cmesh.interfaces.cli.watching.source import Away, Watcher
from cmesh.interfaces.cli.watching.words import as_json as json_line
from cmesh.interfaces.cli.watching.words import as_line, matches
from cmesh.paths import control_socket, state_dir

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(watch)


def watch(
    *,
    words: Annotated[
        str,
        typer.Argument(
            metavar="[WORDS]", help="Only tasks with these words: peer, runner, state, prompt."
        ),
    ] = "",
    unfinished: Annotated[
        bool, typer.Option("--open", help="Only tasks that are unfinished.")
    ] = False,
    lines: Annotated[
        bool, typer.Option("--lines", help="Print a line for each change, on a terminal too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each change.")
    ] = False,
) -> None:
    """Watch the tasks of all peers live. Those handed out and those worked on here.

    On a terminal: a list with the events of the chosen task, and keys to cancel it and to answer
    what waits for you; `?` shows them. Elsewhere a line for each change: a task seen first, a new
    state, an event. It goes on over restarts of the daemon and tells nothing twice. Ctrl-C ends
    the watching, never a task.
    """
    call(lambda client: client.status())  # starts the daemon, or says why there is none
    watcher = Watcher(control_socket(state_dir()), SystemClock())
    with screens.kept(state_dir(), "watch"):
        if as_json or lines or not _can_draw():
            show = json_line if as_json else as_line
            asyncio.run(_print(watcher, show, words, unfinished=unfinished))
        else:
            _draw(watcher, words, unfinished=unfinished)


def _draw(watcher: Watcher, words: str, *, unfinished: bool) -> None:
    from cmesh.interfaces.cli.watching.app import WatchApp

    watcher.limit_s = None  # whoever looks at it sees that the daemon is away
    program = WatchApp(
        watcher, words=words, unfinished=unfinished, plain=bool(output.stderr().no_color)
    )
    program.run()
    if program.failure is not None:
        raise program.failure


def _can_draw() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and output.is_terminal()


async def _print(
    watcher: Watcher, show: Callable[[Change], str], words: str, *, unfinished: bool
) -> None:
    """Print changes until Ctrl-C, or until the daemon was away for long."""
    away = False
    async with contextlib.aclosing(watcher.looks()) as looks:
        async for look in looks:
            if isinstance(look, Away):
                if not away:
                    output.say(f"{look.error.message}; waiting for the daemon")
                away = True
                continue
            if away:
                away = False
                output.say("the daemon is back")
            for change in look.changes:
                if _is_shown(change, words, unfinished=unfinished):
                    output.data(show(change))


def _is_shown(change: Change, words: str, *, unfinished: bool) -> bool:
    # The end of a task that was unfinished is a change of one that is.
    known = change.kind == "task" and unfinished
    return matches(change.task, words, unfinished=known)
