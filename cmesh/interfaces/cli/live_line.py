"""The one line that is drawn anew while somebody waits at a terminal: state, time, cost, last call.

It goes to stderr. Where lines are printed meanwhile it steps aside, so that both stay whole.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cmesh.clock import Clock
from cmesh.daemon.answers import EventView, TaskView
from cmesh.interfaces.age import heard
from cmesh.interfaces.cli.output import duration, stderr
from cmesh.interfaces.cli.watching.board import Row
from cmesh.interfaces.cli.watching.words import cost_words, event_words
from cmesh.model import ENDED
from cmesh.text import one_line

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["EVENT_CHARACTERS", "LiveLine", "is_lost", "state_line"]

EVENT_CHARACTERS = 160
# Whole: its end is often what the person has to do.
_REASON_CHARACTERS = 600


class LiveLine:
    """The line of one task. Made for a terminal; rich is loaded with it."""

    def __init__(self, clock: Clock) -> None:
        from rich.status import Status

        self._clock = clock
        self._since = clock.monotonic()
        self._row: Row | None = None
        self._call: EventView | None = None
        # Rendered anew with each turn of the spinner, so that the seconds run.
        self._status = Status(_Rendered(self), console=stderr())

    def start(self) -> None:
        """Begin to draw."""
        self._status.start()

    def stop(self) -> None:
        """End, and take the line away."""
        self._status.stop()

    @contextmanager
    def aside(self) -> Generator[None]:
        """Print something whole while the line is away."""
        self._status.stop()
        try:
            yield
        finally:
            self._status.start()

    def take(self, view: TaskView, events: Sequence[EventView]) -> None:
        """Take what is new of the task."""
        if self._row is None:
            self._row = Row(view=view, cursor=0)
        self._row.view = view
        for event in events:
            self._row.take(event)
            if event.kind == "tool_call":
                self._call = event
        self._since = self._clock.monotonic() - view.elapsed_s

    def text(self) -> "Text":
        """Return the line to draw now."""
        from rich.text import Text

        elapsed = duration(self._clock.monotonic() - self._since)
        parts = ["asking the daemon", elapsed]
        if self._row is not None:
            view = self._row.view
            lost = f"{heard(view)}, link {view.link}" if is_lost(view) else ""
            last = self._call or self._row.last
            words = event_words(last, EVENT_CHARACTERS) if last is not None else ""
            parts = [state_line(view), elapsed, cost_words(self._row), lost, words]
        return Text("  ".join(filter(None, parts)), overflow="ellipsis", no_wrap=True)


def state_line(view: TaskView) -> str:
    """Return a task's state, where it is, and why, in one line."""
    reason = f" ({one_line(view.reason, _REASON_CHARACTERS)})" if view.reason else ""
    return f"{view.state.replace('_', ' ')} on {one_line(view.peer, 63)}{reason}"


def is_lost(view: TaskView) -> bool:
    """Whether news of an accepted task cannot come at the moment."""
    return view.known_at is not None and view.state not in ENDED and view.link != "connected"


class _Rendered:
    def __init__(self, line: LiveLine) -> None:
        self._line = line

    def __rich__(self) -> "Text":
        return self._line.text()
