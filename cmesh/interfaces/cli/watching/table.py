"""The list of tasks on the screen of `cmesh watch`: its order, its columns, its colours."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.text import Text
from textual.widgets import DataTable

from cmesh.interfaces.cli.watching.board import Row, is_pending
from cmesh.interfaces.cli.watching.words import COLUMNS, cells
from cmesh.model import ENDED

__all__ = ["TaskTable", "ordered"]

WIDTHS = (7, 12, 13, 12, 8, 8)
"""Of all columns but the last, which takes what is left."""

LAST_LEAST = 18

_STYLES = {
    "running": "green",
    "ASKS YOU": "bold reverse",
    "asks back": "bold",
    "failed": "red",
    "timed out": "red",
    "interrupted": "red",
    "denied": "yellow",
    "unknown": "yellow",
}


class TaskTable(DataTable[Text]):
    """A line for each task, by its id."""

    def __init__(self) -> None:
        super().__init__(id="list", cursor_type="row", cell_padding=0)
        self._shown: list[str] = []

    def fit(self, width: int) -> None:
        """Take columns for a terminal of a width, and no lines."""
        self.clear(columns=True)
        self._shown = []
        last = max(LAST_LEAST, width - sum(WIDTHS))
        for name, wide in zip(COLUMNS, (*WIDTHS, last), strict=True):
            self.add_column(name, key=name, width=wide)

    def show(self, rows: Mapping[str, Row], now: datetime, chosen: str) -> None:
        """Show these, in their order; the cursor stays on the chosen one."""
        if list(rows) != self._shown:
            self.clear()
            for task_id, row in rows.items():
                self.add_row(*_texts(cells(row, now)), key=task_id)
            self._shown = list(rows)
            if chosen in rows:
                self.move_cursor(row=self._shown.index(chosen))
            return
        for task_id, row in rows.items():
            for name, cell in zip(COLUMNS, _texts(cells(row, now)), strict=True):
                if self.get_cell(task_id, name) != cell:
                    self.update_cell(task_id, name, cell)


def ordered(rows: Iterable[Row]) -> dict[str, Row]:
    """Return rows by id: what waits for the person, what goes on, what has ended; newest first."""
    newest = sorted(rows, key=lambda row: row.view.task_id, reverse=True)
    return {row.view.task_id: row for row in sorted(newest, key=_rank)}


def _rank(row: Row) -> int:
    if is_pending(row.view):
        return 0
    return 2 if row.view.state in ENDED else 1


def _texts(row: Sequence[str]) -> list[Text]:
    """Return cells that nothing interprets, the state with its colour, apart from each other."""
    texts = [
        Text(
            cell, style=_STYLES.get(cell, "") if at == 1 else "", no_wrap=True, overflow="ellipsis"
        )
        for at, cell in enumerate(row)
    ]
    for text, width in zip(texts, WIDTHS, strict=False):
        text.truncate(width - 1, overflow="ellipsis")
    return texts
