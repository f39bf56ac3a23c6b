"""Rows as a chart: which columns name the bars, how long each is. Pure; a template draws it.

Bars lie for names and stand for times, in percent of the longest. Nothing is added up: a bar is a
row, and the table below the chart has them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cmesh.daemon.answers import SqlView
from cmesh.text import one_line

__all__ = ["Bar", "Chart", "chart_of", "measures"]

BARS_MOST = 40
"""Rows that are drawn; more cannot be told apart."""

NAMES_MOST = 3
"""Columns that name a bar."""

LABEL_CHARACTERS = 36
"""Of a bar's label: beside its value it has a screen of 360 pixels."""

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UBIGINT", "UINTEGER", "FLOAT")
_NO_MEASURES = frozenset(
    {"seq", "head_seq", "pid", "line", "turn", "exit_code", "acceptance_exit", "hour_utc"}
)
_NO_NAMES = frozenset({"task_id", "trace_id", "reason", "prompt", "text"})
_TIMES = ("DATE", "TIMESTAMP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row: `share` of the longest bar in percent, `at` its place from the left in percent."""

    label: str
    value: str
    share: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart of one measure.

    Attributes:
        standing: by time, from left to right; else one below another as the rows come.
        named_by: the columns that a bar's label is made of.
        width: of a standing bar, in percent.
        summary: what it shows, in a sentence, for who cannot see it.
    """

    measure: str
    named_by: Sequence[str]
    standing: bool
    bars: Sequence[Bar]
    width: float
    summary: str


def measures(view: SqlView) -> list[str]:
    """Return the columns that can be drawn: numbers that count something, and are not negative."""
    return [
        name
        for place, (name, kind) in enumerate(zip(view.columns, view.types, strict=True))
        if _is_number(kind) and name not in _NO_MEASURES and _drawable(view, place)
    ]


def chart_of(view: SqlView, measure: str = "") -> Chart | None:
    """Return the chart of a measure, by default the first; None = there is nothing to draw."""
    found = measures(view)
    measure = measure if measure in found else "".join(found[:1])
    names = _names(view)
    if not measure or not names:
        return None
    place = view.columns.index(measure)
    rows = [row for row in view.rows if row[place] is not None]
    first, kind = names[0]
    standing = kind.startswith(_TIMES) and _tells_apart(rows, view.columns.index(first))
    named_by = [name for name, _kind in names][: 1 if standing else NAMES_MOST]
    places = [view.columns.index(name) for name in named_by]
    if standing:
        rows = sorted(rows, key=lambda row: str(row[places[0]]))
    drawn = rows[-BARS_MOST:] if standing else rows[:BARS_MOST]
    if len(drawn) < 2:
        return None
    bars = _bars([(_label(row, places), _value(row[place])) for row in drawn])
    top, left = max(bars, key=lambda bar: bar.share), len(view.rows) - len(drawn)
    return Chart(
        measure=measure,
        named_by=named_by,
        standing=standing,
        bars=bars,
        width=round(80 / len(bars), 3),
        summary=f"{measure} of {len(bars)} rows; the largest is {top.value}, of {top.label}"
        + (f"; {left} more are in the table only" if left else ""),
    )


def _bars(rows: Sequence[tuple[str, float]]) -> list[Bar]:
    longest = max(value for _label, value in rows) or 1.0
    return [
        Bar(
            label=label,
            value=_shown(value),
            share=round(100 * value / longest, 2),
            at=round(100 * number / len(rows), 3),
        )
        for number, (label, value) in enumerate(rows)
    ]


def _names(view: SqlView) -> list[tuple[str, str]]:
    """Return the columns that can name a row, with their types; an hour of the day is a name."""
    return [
        (name, kind)
        for name, kind in zip(view.columns, view.types, strict=True)
        if (kind.startswith(("VARCHAR", "BOOLEAN", *_TIMES)) and name not in _NO_NAMES)
        or name == "hour_utc"
    ]


def _is_number(kind: str) -> bool:
    return kind.startswith(("DECIMAL", "DOUBLE", *_NUMBERS)) and not kind.endswith("]")


def _drawable(view: SqlView, place: int) -> bool:
    values = [row[place] for row in view.rows if row[place] is not None]
    return bool(values) and all(_value(value) >= 0 for value in values)


def _value(value: object) -> float:
    """Return a number of an answer; what is none of ours to draw counts as negative."""
    try:
        found = float(str(value))
    except ValueError:
        return -1.0
    return found if found < float("inf") else -1.0


def _tells_apart(rows: Sequence[Sequence[object]], place: int) -> bool:
    seen = [str(row[place]) for row in rows if row[place] is not None]
    return len(set(seen)) == len(rows)


def _label(row: Sequence[object], places: Sequence[int]) -> str:
    return one_line(" · ".join(_word(row[place]) for place in places), LABEL_CHARACTERS)


def _word(value: object) -> str:
    if value is None:
        return "—"
    try:  # to the minute: a label has no room for more
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")
    except ValueError:
        return str(value)


def _shown(value: float) -> str:
    return f"{value:,.6g}" if value < 1e6 else f"{value:,.0f}"
