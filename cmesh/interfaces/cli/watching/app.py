"""`cmesh watch` on a terminal: the list of tasks, the events of one, and the owner's word.

Nothing here decides: what is asked for goes to the daemon, which refuses what may not be.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, RichLog, Static
from typing_extensions import override

from cmesh.daemon.answers import EventView, StatusView, TaskView
from cmesh.daemon.arguments import ApproveArguments, CancelArguments, TaskArguments
from cmesh.errors import CmeshError
from cmesh.interfaces.cli.output import duration
from cmesh.interfaces.cli.watching.board import is_pending
from cmesh.interfaces.cli.watching.screens import Help, Question
from cmesh.interfaces.cli.watching.source import Away, Look, Watcher
from cmesh.interfaces.cli.watching.table import TaskTable, ordered
from cmesh.interfaces.cli.watching.words import (
    asked_for,
    event_words,
    facts,
    headline,
    matches,
    state_words,
)
from cmesh.interfaces.client import ControlClient
from cmesh.model import ENDED
from cmesh.text import one_line

__all__ = ["WatchApp"]

TAIL_EVENTS = 200
TAIL_LINES = 2_000
REASON_CHARACTERS = 500
TOLD_S = 8.0
"""How long a refusal of the daemon stands on the screen."""

DRAW_EVERY_S = 1.0
"""For how long ago things were, which nothing tells of."""


class WatchApp(App[None]):
    """The program; `failure` is why it ended by itself, if it did."""

    TITLE = "cmesh watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: 1; background: $panel; text-style: bold; }
    #list { height: 1fr; min-height: 4; }
    #facts { height: 1; background: $panel; }
    #tail { height: 1fr; min-height: 3; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter.open { display: block; }
    Help, Question { align: center middle; }
    .box { width: 95%; max-width: 110; height: auto; max-height: 90%; border: round $foreground; padding: 0 1; background: $surface; }
    Question VerticalScroll { height: auto; max-height: 60vh; }
    #question { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("question_mark", "help", "Help"),
        Binding("slash", "filter", "Filter"),
        Binding("o", "unfinished", "Open/all"),
        Binding("a", "answer", "Approve…"),
        Binding("c", "cancel", "Cancel…"),
        Binding("escape", "all", "All", show=False),
        Binding("j", "move(1)", "Down", show=False),
        Binding("k", "move(-1)", "Up", show=False),
    ]

    def __init__(
        self, watcher: Watcher, *, words: str = "", unfinished: bool = False, plain: bool = False
    ) -> None:
        super().__init__(ansi_color=plain)
        self.failure: CmeshError | None = None
        self._watcher = watcher
        self._words = words
        self._unfinished = unfinished
        self._status: StatusView | None = None
        self._away: Away | None = None
        self._chosen = ""
        self._told = 0
        self._held: list[EventView] | None = None
        # Kept, as a question above them has a screen of its own.
        self._head = Static(id="head", markup=False)
        self._list = TaskTable()
        self._facts = Static(id="facts", markup=False)
        self._tail = RichLog(id="tail", wrap=True, max_lines=TAIL_LINES, min_width=20)
        self._filter = Input(id="filter", placeholder="words; Enter keeps, Esc shows all")

    @override
    def compose(self) -> ComposeResult:
        yield self._head
        yield self._list
        yield self._facts
        yield self._tail
        yield self._filter
        yield Footer()

    def on_mount(self) -> None:
        """Begin to watch; SIGTERM ends it and gives the terminal back as it was."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self._filter.value = self._words  # which it takes in a running program only
        self._list.fit(self.size.width)
        self._list.focus()
        self._draw()
        self.set_interval(DRAW_EVERY_S, self._draw)
        self.run_worker(self._watch(), exit_on_error=True)

    def on_resize(self) -> None:
        """Give the last column what the terminal has."""
        self._list.fit(self.size.width)
        self._draw()

    def on_data_table_row_highlighted(self, event: "DataTable.RowHighlighted") -> None:
        """Show the events of the task under the cursor."""
        task_id = str(event.row_key.value or "")
        if event.cursor_row != self._list.cursor_row:  # it went on, as when rows are drawn anew
            return
        if task_id in self._watcher.board.rows and task_id != self._chosen:
            self._choose(task_id)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        if event.input.id == "filter":
            self._words = event.value
            self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter, and go back to the list."""
        if event.input.id == "filter":
            self._close_filter()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_filter(self) -> None:
        """Open the line for words."""
        line = self._filter
        line.add_class("open")
        line.focus()

    def action_all(self) -> None:
        """Take the filter away."""
        self._filter.value = ""
        self._close_filter()

    def action_unfinished(self) -> None:
        """Show unfinished tasks only, or all."""
        self._unfinished = not self._unfinished
        self._draw()

    def action_move(self, rows: int) -> None:
        """Move the cursor, as arrows do."""
        table = self._list
        table.move_cursor(row=max(0, table.cursor_row + rows))

    def action_answer(self) -> None:
        """Ask the person about a task that waits for them: the chosen one, else the first."""
        rows = self._watcher.board.rows
        chosen = rows.get(self._chosen)
        waiting = [row.view.task_id for row in rows.values() if is_pending(row.view)]
        if chosen is not None and is_pending(chosen.view):
            self.run_worker(self._answer(self._chosen), group="ask")
        elif waiting:
            self.run_worker(self._answer(waiting[0]), group="ask")
        else:
            self.notify("no task waits for you here")

    def action_cancel(self) -> None:
        """Ask the person whether the chosen task is to end."""
        row = self._watcher.board.rows.get(self._chosen)
        if row is None or row.view.state in ENDED:
            self.notify("the chosen task has ended already" if row else "no task is chosen")
            return
        self.run_worker(self._cancel(row.view), group="ask")

    async def _watch(self) -> None:
        try:
            async with contextlib.aclosing(self._watcher.looks()) as looks:
                async for one in looks:
                    self._take(one)
        except CmeshError as error:
            self.failure = error
            self.exit()

    def _take(self, one: Look | Away) -> None:
        if isinstance(one, Away):
            self._away = one
            self._draw_head()
            return
        self._away, self._status = None, one.status
        self._draw()
        events = [c.event for c in one.changes if c.event and c.task.task_id == self._chosen]
        if self._held is not None:
            self._held += events
        else:
            self._write(events)

    async def _answer(self, task_id: str) -> None:
        wanted = TaskArguments(task_id=task_id, events=0)
        shown = await self._ask(lambda client: client.get_task(wanted))
        if shown is None:
            return
        question = (
            "Let it run here? Type yes, or no and a reason that its caller is told. "
            "Esc leaves it waiting."
        )
        line = await self.push_screen_wait(Question(asked_for(shown), question, ("yes", "no")))
        if line is None:
            return
        word, _, reason = line.partition(" ")
        yes = word.lower() == "yes"
        now = await self._ask(lambda client: client.get_task(wanted))
        if now is None:
            return
        if yes and asked_for(now) != asked_for(shown):
            self.notify("it is not what you were shown any more; look again", severity="warning")
            return
        arguments = ApproveArguments(
            task_id=task_id, approve=yes, reason="" if yes else reason[:REASON_CHARACTERS]
        )
        if await self._ask(lambda client: client.approve_task(arguments)) is not None:
            self.notify("it may run" if yes else "refused")

    async def _cancel(self, view: TaskView) -> None:
        known = [
            ("task", view.task_id),
            ("state", state_words(view)),
            ("peer", one_line(view.peer)),
            ("prompt", one_line(view.prompt, 400)),
        ]
        question = "End it? Type yes, and a reason if you like. Esc lets it go on."
        line = await self.push_screen_wait(Question(known, question, ("yes",)))
        if line is None:
            return
        reason = line.partition(" ")[2][:REASON_CHARACTERS]
        arguments = CancelArguments(task_id=view.task_id, reason=reason)
        if await self._ask(lambda client: client.cancel_task(arguments)) is not None:
            self.notify("asked to end; it is cancelled once no process is left")

    async def _ask(self, call: Callable[[ControlClient], Awaitable[TaskView]]) -> TaskView | None:
        """Return the daemon's answer; what it refuses is told, and nothing follows."""
        try:
            async with self._watcher.client() as client:
                return await call(client)
        except CmeshError as error:
            self.notify(
                one_line(error.message, 300), severity="error", timeout=TOLD_S, markup=False
            )
            return None

    def _choose(self, task_id: str) -> None:
        self._chosen, self._held = task_id, []
        self._tail.clear()
        self._draw_facts()
        self.run_worker(partial(self._load, task_id), group="tail", exclusive=True)

    async def _load(self, task_id: str) -> None:
        """Show what a task did before it was chosen, then what came meanwhile."""
        events: Sequence[EventView] = []
        with contextlib.suppress(CmeshError):  # the daemon is away: the next look says so
            async with self._watcher.client() as client:
                arguments = TaskArguments(task_id=task_id, events=TAIL_EVENTS)
                events = (await client.get_task(arguments)).events
        self._told = 0
        held, self._held = self._held or [], None
        self._write([*events, *held])

    def _write(self, events: Sequence[EventView]) -> None:
        tail = self._tail
        for event in events:
            if event.seq > self._told:
                self._told = event.seq
                at = event.ts.astimezone().strftime("%H:%M:%S")
                tail.write(Text(f"{at} {event_words(event)}"))

    def _draw(self) -> None:
        if not self._list.is_attached:  # the program ends
            return
        self._draw_head()
        rows = self._watcher.board.rows.values()
        shown = [row for row in rows if matches(row.view, self._words, unfinished=self._unfinished)]
        self._list.show(ordered(shown), self._watcher.clock.now(), self._chosen)
        self._draw_facts()

    def _draw_head(self) -> None:
        if self._away is not None:
            error, since = self._away.error, duration(self._away.since_s)
            text = f"the daemon is away for {since}, trying again: {one_line(error.message, 100)}"
        else:
            text = headline(self._status, self._watcher.board.rows)
            kept = one_line(self._words, 30)
            text += f" · only “{kept}”" if kept else ""
            text += " · unfinished" if self._unfinished else ""
        self._head.update(Text(text, no_wrap=True, overflow="ellipsis"))

    def _draw_facts(self) -> None:
        row = self._watcher.board.rows.get(self._chosen)
        empty = "no task yet" if not self._watcher.board.rows else ""
        text = Text(facts(row) if row else empty, no_wrap=True, overflow="ellipsis")
        self._facts.update(text)

    def _close_filter(self) -> None:
        self._filter.remove_class("open")
        self._list.focus()
