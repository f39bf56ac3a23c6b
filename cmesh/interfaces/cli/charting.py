"""What of an answer can be drawn, and how: the first column against columns of numbers. Pure."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from cmesh.daemon.answers import SqlView
from cmesh.errors import UsageError
from cmesh.text import one_line

__all__ = ["KINDS", "Kind", "Plot", "Series", "plan", "require_kind"]

Kind = Literal["bar", "line", "hist"]
KINDS = ("auto", "bar", "line", "hist")

SERIES_MOST = 6
"""Lines, or bars of a group, that can be told from each other without colour."""

BARS_MOST = 40
"""Of all series together; more are not taken in at a glance."""

LABEL_CHARACTERS = 40

_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|UINTEGER|FLOAT|DOUBLE|BIGNUM|DECIMAL\(.*")
_TIME = re.compile(r"DATE|TIMESTAMP.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one line or bars of one colour; a point that is not known is left out of `xs`."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What is drawn.

    Attributes:
        labels: of the bars, whose `xs` count from 0; empty for the other kinds.
        times: the x of a line are seconds since 1970, in UTC.
        x: the name of the column along which it is drawn.
        notes: what is not drawn, in words.
    """

    kind: Kind
    series: Sequence[Series]
    labels: Sequence[str] = ()
    times: bool = False
    x: str = ""
    notes: Sequence[str] = ()


def require_kind(kind: str) -> None:
    """Raise `UsageError` unless it is one of `KINDS`, or none."""
    if kind and kind not in KINDS:
        raise UsageError(
            f"`{one_line(kind, 40)}` is no chart", hint=f"use one of {', '.join(KINDS)}"
        )


def plan(view: SqlView, kind: str) -> Plot:
    """Return what to draw of an answer; of a fleet query each node is a series of its own.

    Raises:
        UsageError: nothing of it can be drawn; says what is missing.
    """
    first = 1 if view.nodes else 0  # `node` comes before the columns of the query
    columns = list(range(first, len(view.columns)))
    if not view.rows or not columns:
        raise UsageError("there are no rows to draw")
    numbers = [at for at in columns if _NUMBER.fullmatch(view.types[at])]
    if not numbers:
        types = ", ".join(f"{one_line(view.columns[at], 40)} {view.types[at]}" for at in columns)
        raise UsageError(
            f"there is no column of numbers to draw: {one_line(types, 200)}",
            hint="make one: count(*), sum(cost_usd), extract('epoch' FROM …), or a CAST",
        )
    x = columns[0]
    ys = [at for at in numbers if at != x]
    chosen = cast("Kind", _guess(view, x, ys) if kind == "auto" else kind)
    if chosen == "hist":
        return _hist(view, ys or numbers)
    if not ys:
        raise UsageError(
            "there is one column alone, and it takes two: the first for x, numbers for y",
            hint="use `--chart hist` to see how its values lie",
        )
    return _line(view, x, ys) if chosen == "line" else _bars(view, x, ys)


def _guess(view: SqlView, x: int, ys: Sequence[int]) -> str:
    if not ys:
        return "hist"
    ordered = _NUMBER.fullmatch(view.types[x]) or _TIME.fullmatch(view.types[x])
    return "line" if ordered and len(view.rows) > 1 else "bar"


def _hist(view: SqlView, ys: Sequence[int]) -> Plot:
    values = [value for row in view.rows if (value := _number(row[ys[0]])) is not None]
    name = one_line(view.columns[ys[0]], LABEL_CHARACTERS)
    if not values:
        raise UsageError(f"column `{name}` has no number in it")
    notes = _left_out("value", len(view.rows) - len(values))
    notes += [f"of {len(ys)} columns of numbers the first is drawn"] * (len(ys) > 1)
    return Plot(kind="hist", series=[Series(name=name, xs=(), ys=values)], x=name, notes=notes)


def _line(view: SqlView, x: int, ys: Sequence[int]) -> Plot:
    times = _TIME.fullmatch(view.types[x]) is not None
    if not times and not _NUMBER.fullmatch(view.types[x]):
        name = one_line(view.columns[x], LABEL_CHARACTERS)
        raise UsageError(
            f"column `{name}` is neither time nor number, so there is no line along it",
            hint="use `--chart bar`",
        )
    found: dict[str, list[tuple[float, float]]] = {}
    lost = 0
    for row in view.rows:
        at = _moment(row[x]) if times else _number(row[x])
        for y in ys:
            value = _number(row[y])
            if at is None or value is None:
                lost += 1
                continue
            found.setdefault(_series_name(view, row, y, ys), []).append((at, value))
    if not found:
        raise UsageError("there is no row with both an x and a y")
    notes = _left_out("point", lost)
    if len(found) > SERIES_MOST:
        notes.append(f"of {len(found)} lines the first {SERIES_MOST} are drawn")
    series = [
        Series(name=name, xs=[p[0] for p in points], ys=[p[1] for p in points])
        for name, unsorted in list(found.items())[:SERIES_MOST]
        for points in (sorted(unsorted),)
    ]
    return Plot(
        kind="line", series=series, times=times, x=one_line(view.columns[x], LABEL_CHARACTERS),
        notes=notes,
    )  # fmt: skip


def _bars(view: SqlView, x: int, ys: Sequence[int]) -> Plot:
    drawn = list(ys[:SERIES_MOST])
    most = BARS_MOST // len(drawn)
    rows = view.rows[:most]
    values = [[_number(row[y]) for row in rows] for y in drawn]
    lost = sum(value is None for one in values for value in one)
    if lost == len(rows) * len(drawn):
        raise UsageError("the columns of numbers have no number in them")
    notes = _left_out("value", lost)
    if len(view.rows) > most:
        notes.append(f"the first {most} of {len(view.rows)} rows are drawn")
    if len(ys) > len(drawn):
        notes.append(f"of {len(ys)} columns of numbers the first {SERIES_MOST} are drawn")
    series = [
        Series(
            name=one_line(view.columns[y], LABEL_CHARACTERS),
            xs=[float(at) for at, value in enumerate(one) if value is not None],
            ys=[value for value in one if value is not None],
        )
        for y, one in zip(drawn, values, strict=True)
    ]
    labels = [_label(view, row, x) for row in rows]
    return Plot(kind="bar", series=series, labels=labels, notes=notes)


def _label(view: SqlView, row: Sequence[object], x: int) -> str:
    parts = [row[0], row[x]] if view.nodes else [row[x]]
    return one_line(
        " ".join("NULL" if one is None else str(one) for one in parts), LABEL_CHARACTERS
    )


def _series_name(view: SqlView, row: Sequence[object], y: int, ys: Sequence[int]) -> str:
    name = one_line(view.columns[y], LABEL_CHARACTERS)
    if not view.nodes:
        return name
    node = one_line(str(row[0]), LABEL_CHARACTERS)
    return f"{node} {name}" if len(ys) > 1 else node


def _left_out(what: str, number: int) -> list[str]:
    return [f"{number} {what}{'s' * (number != 1)} left out: no number"] if number else []


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _moment(value: object) -> float | None:
    """Return seconds since 1970; a time without a zone is in UTC, as the store's are."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
