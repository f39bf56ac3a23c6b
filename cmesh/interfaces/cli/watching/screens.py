"""What opens above the list: the help page, and a question that a person answers in words."""

from collections.abc import Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static
from typing_extensions import override

__all__ = ["Help", "Question"]

KEYS = (
    ("up, down, j, k", "choose a task; its events are below"),
    ("tab", "to the events and back; arrows, Page Up and End move there"),
    ("/", "show only tasks with these words: id, state, peer, runner, directory, prompt"),
    ("Esc", "show all again; close what is open"),
    ("o", "unfinished tasks only, or all"),
    ("a", "look at a task that waits for you here, then let it run or refuse it"),
    ("c", "ask for the end of the chosen task"),
    ("?", "this page"),
    ("q, Ctrl-C", "leave; no task ends by that"),
)
NOTES = (
    (
        "> is handed out to that peer, < is worked on here for it. TIME: since it began, or was "
        "asked for; of one that ended, how long it took. COST: what its agent has told so far. LAST: what it did last."
    ),
    "Nothing is approved, refused or ended by a single key: each asks for a word.",
    (
        "What agents say is text here. Marks that could make it read otherwise are written out, "
        "as <U+202E>."
    ),
)


class Help(ModalScreen[None]):
    """The keys, and what the columns mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close")
    ]

    @override
    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(_grid(KEYS))
            yield Static(Text("\n" + "\n\n".join(NOTES)))


class Question(ModalScreen[str | None]):
    """Shows facts whole and takes a line; None = nothing was answered.

    The first word must be one of `words`. A key that went astray answers nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("pageup", "scroll(-1)", "Up", show=False),
        Binding("pagedown", "scroll(1)", "Down", show=False),
    ]

    def __init__(
        self, facts: Sequence[tuple[str, str]], question: str, words: Sequence[str]
    ) -> None:
        super().__init__()
        self._facts = facts
        self._question = question
        self._words = words

    @override
    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            with VerticalScroll(can_focus=False):
                yield Static(_grid([fact for fact in self._facts if fact[1]]))
            yield Static(Text(self._question), id="question")
            yield Input(id="answer", select_on_focus=False)

    def on_mount(self) -> None:
        """Put the cursor where the answer goes."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the line, or say what would be one."""
        event.stop()
        line = event.value.strip()
        if line.split(" ", 1)[0].lower() in self._words:
            self.dismiss(line)
            return
        event.input.value = ""
        self.notify(f"type {' or '.join(self._words)}, or Esc to leave it", timeout=4)

    def action_leave(self) -> None:
        """Answer nothing."""
        self.dismiss(None)

    def action_scroll(self, pages: int) -> None:
        """Move the facts by a page; the cursor stays in the answer."""
        shown = self.query_one(VerticalScroll)
        shown.scroll_relative(y=pages * max(1, shown.size.height - 1), animate=False)


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    """Return names and values; a value keeps to its own column, whatever lines it has."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(value))
    return grid
