"""Text in the columns of a terminal: what fits, what is left out, where a line ends. Pure."""

import textwrap
from collections.abc import Sequence

__all__ = ["COLUMN_GAP", "fitted", "layout", "wide", "wrapped"]

CUT_WIDTH = 12
"""What is left at least of a column that may be cut."""

COLUMN_GAP = 2
LEAST_WIDTH = 20
"""Below it a line is not wrapped: a word a line is no text."""

Rows = Sequence[Sequence[str]]


def layout(
    columns: Sequence[str], rows: Rows, width: int, *, may_lack: Sequence[str], cut: frozenset[str]
) -> dict[int, int] | None:
    """Return the columns that a table of at most `width` has, each with its own width, in order.

    None = it has no room.

    Args:
        columns: the names.
        rows: a cell for each column.
        width: columns of the terminal.
        may_lack: columns that may be left out, the most wanted first; those without a value in
            any row before all others.
        cut: columns whose cells may be cut, to `CUT_WIDTH` at least.
    """
    whole = [max([wide(one), *(wide(row[at]) for row in rows)]) for at, one in enumerate(columns)]
    least = [min(size, CUT_WIDTH) if columns[at] in cut else size for at, size in enumerate(whole)]
    kept = list(range(len(columns)))
    if _sum(whole) > width:
        kept = [at for at in kept if columns[at] not in may_lack]
        for column in may_lack:
            at = columns.index(column) if column in columns else -1
            filled = at >= 0 and any(row[at] for row in rows)
            if filled and _sum([least[one] for one in (*kept, at)]) <= width:
                kept.append(at)
    widths = {at: least[at] for at in sorted(kept)}
    spare = width - _sum(list(widths.values()))
    wanting = sorted((at for at in widths if whole[at] > least[at]), key=lambda at: whole[at])
    for done, at in enumerate(wanting):  # what wants little first, so that the others get its rest
        more = min(whole[at] - least[at], max(0, spare) // (len(wanting) - done))
        widths[at] += more
        spare -= more
    return widths if spare >= 0 else None


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text; a word that is longer than a line, such as a path, stays whole."""
    lines = text.splitlines() or [""]
    if width < LEAST_WIDTH:
        return lines
    return [
        part
        for line in lines
        for part in (
            textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
            if wide(line) > width
            else [line]
        )
    ]


def fitted(text: str, width: int) -> str:
    """Return a text in at most `width` columns of a terminal; what is cut ends with `…`."""
    if wide(text) <= width:
        return text
    kept = ""
    for ch in text:
        if wide(kept) + wide(ch) > width - 1:
            break
        kept += ch
    return f"{kept}…"


def wide(text: str) -> int:
    """Return how many columns of a terminal a text takes: Chinese characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + COLUMN_GAP * (len(widths) - 1)
