"""`cmesh logs`: what a task did, event by event, to the end or for as long as it runs."""

import asyncio
import json
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated

import typer

from cmesh.clock import SystemClock
from cmesh.daemon.answers import EventView, TaskView
from cmesh.daemon.arguments import TaskArguments
from cmesh.daemon.event_lines import event_line
from cmesh.errors import DaemonRestarted
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.follow import ENDS, IDLE_PAUSE_S, POLL_WAIT_S, RECONNECTS
from cmesh.interfaces.cli.live_line import LiveLine
from cmesh.interfaces.cli.options import OneTaskArgument
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.model import TaskState
from cmesh.text import one_line

__all__ = ["register"]

PAGE_EVENTS = 200
LINE_CHARACTERS = 400


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(logs)


def logs(
    *,
    task_id: OneTaskArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")
    ] = False,
    after: Annotated[
        int, typer.Option(metavar="NUMBER", help="Only events with a higher number.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each event.")
    ] = False,
) -> None:
    """Print what a task did. Tool calls, their results, changed files, retries, cost so far.

    All of it is what the agent says of itself. Ctrl-C ends the printing, not the task. On a
    terminal `-f` has a line below with state, time, cost and last call, drawn anew.
    """
    seen = checked(TaskArguments, task_id=task_id, after_event=after).after_event
    show: Callable[[EventView], None] = _as_json if as_json else _as_line
    drawn = follow and not as_json and sys.stdout.isatty() and output.is_terminal()
    reading = _Reading(task_id, seen, show, LiveLine(SystemClock()) if drawn else None)
    try:
        with reading.drawn():
            _read_all(reading, follow=follow)
    except KeyboardInterrupt:
        if follow:
            _detached(reading)
        raise
    if reading.view is not None and not seen and not reading.seen and not as_json:
        _explain_silence(reading.view)


def _read_all(reading: "_Reading", *, follow: bool) -> None:
    """Read to the end, over restarts of the daemon."""
    for _attempt in range(RECONNECTS):
        try:
            return call(lambda client: reading.read(client, follow=follow))
        except DaemonRestarted:
            with reading.aside():
                output.say("the daemon restarted; asking again")
    raise DaemonRestarted(f"the daemon went away {RECONNECTS} times meanwhile")


class _Reading:
    """Pages through a task's events.

    Attributes:
        seen: the number of the newest one shown.
        view: the task at the last page; None = there was none yet.
    """

    def __init__(
        self, task_id: str, seen: int, show: Callable[[EventView], None], line: LiveLine | None
    ) -> None:
        self.seen = seen
        self.view: TaskView | None = None
        self._task_id = task_id
        self._show = show
        self._line = line

    @contextmanager
    def drawn(self) -> Generator[None]:
        """Draw the line meanwhile, if there is one."""
        if self._line is not None:
            self._line.start()
        try:
            yield
        finally:
            if self._line is not None:
                self._line.stop()

    def aside(self) -> AbstractContextManager[None]:
        """Print something meanwhile."""
        return self._line.aside() if self._line is not None else nullcontext()

    async def read(self, client: ControlClient, *, follow: bool) -> None:
        """Show events until there are none; `follow` waits for more until the task has ended."""
        # With a state that no page ends with, events come from the first one on.
        state, wait_s = TaskState.SUBMITTING, 0.0
        while True:
            view = await self._page(client, state, wait_s)
            done = view.state in ENDS or not follow
            if done and self.seen >= view.last_event:
                return
            if not view.events:
                if done:  # those that are missing are no longer kept
                    return
                if wait_s and view.state == state:
                    await asyncio.sleep(IDLE_PAUSE_S)
            state, wait_s = view.state, POLL_WAIT_S if not view.events else 0.0

    async def _page(self, client: ControlClient, state: TaskState, wait_s: float) -> TaskView:
        view = await client.get_task(
            TaskArguments(
                task_id=self._task_id,
                wait_s=wait_s,
                after_event=self.seen,
                events=PAGE_EVENTS,
                known_state=state,
            )
        )
        self.view = view
        if self._line is not None:
            self._line.take(view, view.events)
        if view.events:
            with self.aside():
                for event in view.events:
                    self._show(event)
                    self.seen = event.seq
        return view


def _detached(reading: _Reading) -> None:
    """Say what becomes of the task, and how to go on from here."""
    view = reading.view
    if view is None or view.state in ENDS:
        return
    output.say(f"no longer following; the task is {view.state.replace('_', ' ')} and goes on")
    output.hint(f"cmesh logs -f {view.task_id} --after {reading.seen}")


def _explain_silence(view: TaskView) -> None:
    """Say on stderr why nothing was printed."""
    code = f" [{view.code}]" if view.code else ""
    output.say(f"no events: task {view.task_id} is {view.state.replace('_', ' ')}{code}")
    output.hint(f"cmesh show {view.task_id}")


def _as_line(event: EventView) -> None:
    line = event_line(event, LINE_CHARACTERS)
    output.data(
        f"{event.seq:>5}  {output.moment(event.ts)}  {one_line(event.kind, 40)}  {line}".rstrip()
    )


def _as_json(event: EventView) -> None:
    output.data(json.dumps(event.model_dump(mode="json"), ensure_ascii=False))
