"""Waiting for a task's end with something to look at meanwhile.

Progress goes to stderr: a live line on a terminal, plain lines in a pipe. What the
command prints as its result at the end is no progress. The daemon may restart
meanwhile; nothing here ends a task.
"""

import asyncio
from types import TracebackType
from typing import Protocol, Self

from typing_extensions import override

from cmesh.clock import Clock, SystemClock
from cmesh.daemon.answers import EventView, TaskView
from cmesh.daemon.arguments import TaskArguments
from cmesh.daemon.event_lines import event_line
from cmesh.errors import DaemonRestarted
from cmesh.interfaces.age import heard
from cmesh.interfaces.cli.live_line import EVENT_CHARACTERS, LiveLine, is_lost, state_line
from cmesh.interfaces.cli.output import is_terminal, say
from cmesh.interfaces.cli.session import call
from cmesh.interfaces.client import ControlClient
from cmesh.model import ENDED, TaskState
from cmesh.text import one_line

__all__ = ["Progress", "follow", "make_progress", "wait_for"]

POLL_WAIT_S = 20.0
"""How long one call waits for news; the next one follows at once."""

IDLE_PAUSE_S = 0.2
RECONNECTS = 20
EVENTS = 200

ENDS = ENDED | {TaskState.UNKNOWN}
"""States after which waiting longer is not promised to bring news."""


_TOLD = {TaskState.SUCCEEDED, TaskState.WAITING_INPUT}


class Progress(Protocol):
    """Shows a waiting person what is known; a context manager.

    Attributes:
        view: the newest view of the task; None before the first.
        seen: number of the newest event shown, so that a reconnect repeats none.
    """

    view: TaskView | None
    seen: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, view: TaskView) -> None:
        """Take a newer view, with the events since the last one."""
        ...


def make_progress(*, quiet: bool) -> Progress:
    """Return the progress that fits where stderr goes; `quiet` leaves pipes silent."""
    if is_terminal():
        return _Live(SystemClock())
    return _Silent() if quiet else _Lines()


def wait_for(task_id: str, progress: Progress) -> TaskView:
    """Return the task's last view once it ended. Blocks; reconnects when the daemon restarts.

    Raises:
        TaskNotFound: no such task.
        DaemonRestarted: the daemon keeps going away.
        KeyboardInterrupt: Ctrl-C; the task goes on.
    """
    for _attempt in range(RECONNECTS):
        try:
            return call(lambda client: follow(client, task_id, progress))
        except DaemonRestarted:
            say("the daemon restarted; asking again")
    raise DaemonRestarted(f"the daemon went away {RECONNECTS} times while waiting")


async def follow(client: ControlClient, task_id: str, progress: Progress) -> TaskView:
    """Show the task's news until it ended; return its last view."""
    state = progress.view.state if progress.view else None
    wait_s = 0.0
    while True:
        arguments = TaskArguments(
            task_id=task_id,
            wait_s=wait_s,
            after_event=progress.seen,
            events=EVENTS,
            known_state=state,
        )
        view = await client.get_task(arguments)
        news = view.state != state or bool(view.events)
        progress.show(view)
        if view.state in ENDS and progress.seen >= view.last_event:
            return view
        if wait_s and not news:
            # An early answer without news must not become a busy loop.
            await asyncio.sleep(IDLE_PAUSE_S)
        state, wait_s = view.state, POLL_WAIT_S


def _event_line(event: EventView) -> str:
    return f"{one_line(event.kind, 40)}: {event_line(event, EVENT_CHARACTERS)}"


class _Silent(Progress):
    def __init__(self) -> None:
        self.view = None
        self.seen = 0

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    @override
    def show(self, view: TaskView) -> None:
        self.view = view
        # No events in the answer means that there are none left to show.
        self.seen = view.events[-1].seq if view.events else max(self.seen, view.last_event)


class _Lines(_Silent):
    def __init__(self) -> None:
        super().__init__()
        self._held: EventView | None = None
        self._lost = False
        self._ended = False

    @override
    def show(self, view: TaskView) -> None:
        known = self.view.state if self.view else None
        super().show(view)
        if view.state != known and view.state not in ENDS:
            say(state_line(view))
        if is_lost(view) != self._lost and view.state not in ENDS:
            self._lost = not self._lost
            say(f"{heard(view)}, link {view.link}" if self._lost else "the link is back")
        for event in view.events:
            self._event(event, view)
        if view.state in ENDS and self.seen >= view.last_event:
            self._say_held(view)
            # Any other end is told with its reason when the wait is over.
            if view.state in _TOLD and not self._ended:
                self._ended = True
                say(state_line(view))

    def _event(self, event: EventView, view: TaskView) -> None:
        # A command's output is its result, and so are an agent's last words: both are printed
        # at the end, on stdout. So an agent's text is said once another event follows it.
        if event.kind == "output" or not event.text.strip():
            return
        self._say_held(view)
        if event.kind == "text":
            self._held = event
        else:
            say(_event_line(event))

    def _say_held(self, view: TaskView) -> None:
        held, self._held = self._held, None
        if held is not None and not (view.state in ENDS and held.text[:200] in view.summary):
            say(_event_line(held))


class _Live(_Silent):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._line = LiveLine(clock)

    @override
    def __enter__(self) -> Self:
        self._line.start()
        return self

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._line.stop()

    @override
    def show(self, view: TaskView) -> None:
        self._line.take(view, view.events)
        super().show(view)
