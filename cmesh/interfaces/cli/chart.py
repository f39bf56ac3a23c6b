"""A quick plot of an answer as text, as wide as the terminal; plotext draws it."""

import importlib
import math
import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cmesh.daemon.answers import SqlView
from cmesh.interfaces.cli.charting import Plot, Series, plan
from cmesh.interfaces.cli.fitting import fitted

__all__ = ["chart", "draw", "whole_ticks"]

LEAST_WIDTH, MOST_WIDTH = 30, 200
LEAST_HEIGHT, MOST_HEIGHT = 10, 24
_PROMPT_LINES = 4  # that stay free below a plot
_TICKS, _BINS = 4, 20
_BARS = ("█", "▓", "▒", "░", "#", "=")
_LINES = (("hd", "▞"), ("braille", "⢕"), ("+", "+"), ("x", "x"), ("o", "o"), ("*", "*"))
_LONG = 1e12
_FRAME = 3  # lines of a plot that are no canvas
_HOUR_S, _DAY_S = 3_600.0, 86_400.0


def chart(view: SqlView, kind: str, *, colour: bool) -> tuple[str, list[str]]:
    """Return the plot as wide as the terminal is, and what is not drawn in it, in words.

    Raises:
        UsageError: nothing can be drawn.
    """
    found = plan(view, kind)
    size = shutil.get_terminal_size()
    width = max(LEAST_WIDTH, min(MOST_WIDTH, size.columns))
    height = max(LEAST_HEIGHT, min(MOST_HEIGHT, size.lines - _PROMPT_LINES))
    return draw(found, width, height, colour=colour), list(found.notes)


def draw(plot: Plot, width: int, height: int, *, colour: bool) -> str:
    """Return a plot as lines of `width` columns; bars take as many lines as they are."""
    # Loaded for a plot alone: it takes a third of a second.
    plotext: Any = importlib.import_module("plotext")
    figure = plotext.figure
    plotext.terminal.limit(False, False)  # noqa: FBT003 - the size is given
    figure.clear()
    figure.theme("default")  # where its points take their colours from
    if plot.kind == "bar":
        _bars(figure, plot, width)
        marks = _BARS
    elif plot.kind == "line":
        _lines(figure, plot, width, height)
        marks = tuple(mark for _marker, mark in _LINES)
    else:
        values = list(plot.series[0].ys)
        figure.plot_size(width, height)
        figure.draw(figure.hist(values, bins=_BINS))
        _whole(figure, "x", values)
        _whole(figure, "y", [0.0, _fullest(values)])
        marks = ()
    figure.theme("colorless")  # all else has those of the terminal
    drawn = str(figure.build())
    plain = drawn if colour else plotext.uncolorize(drawn)
    return "\n".join([*_legend(plot, marks), plain.rstrip("\n")]) + "\n"


def _legend(plot: Plot, marks: Sequence[str]) -> list[str]:
    if plot.kind == "hist":
        return [f"{plot.x}: {len(plot.series[0].ys)} values"]
    names = [f"{mark} {one.name}" for mark, one in zip(marks, plot.series, strict=False)]
    return ["   ".join(names) + (f"   along {plot.x}" if plot.x else "")]


def _bars(figure: Any, plot: Plot, width: int) -> None:
    """Draw each bar on a line of its own, the first row at the top."""
    many = len(plot.series)
    group = many + (many > 1)  # an empty line parts the groups
    top = len(plot.labels) * group - 1
    figure.plot_size(width, top + 1 + _FRAME)
    for number, one in enumerate(plot.series):
        if one.xs:
            lines = [top - (x * group + number) for x in one.xs]
            bars = figure.bar(
                lines, list(one.ys), orientation="h", width=0.01, marker=_BARS[number]
            )
            figure.draw(bars)
    _whole(figure, "x", [0.0, *(y for one in plot.series for y in one.ys)])
    ruler = figure.ruler("y")
    ruler.lim(-0.5, top + 0.5)
    ruler.ticks([top - at * group for at in range(len(plot.labels))], _shown(plot.labels, width))


def _lines(figure: Any, plot: Plot, width: int, height: int) -> None:
    figure.plot_size(width, height)
    for (marker, _mark), one in zip(_LINES, plot.series, strict=False):
        figure.draw(figure.signal(list(one.xs), list(one.ys), marker=marker).lines())
    _whole(figure, "y", [y for one in plot.series for y in one.ys])
    if plot.times:
        figure.ruler("x").ticks(*_moments(plot.series))
    else:
        _whole(figure, "x", [x for one in plot.series for x in one.xs])


def _fullest(values: Sequence[float]) -> float:
    """Return how many values the fullest bin has."""
    first, span = min(values), max(values) - min(values)
    bins = Counter(
        min(_BINS - 1, int((one - first) / span * _BINS)) if span else 0 for one in values
    )
    return float(max(bins.values()))


def _whole(figure: Any, axis: str, values: Sequence[float]) -> None:
    """Write whole numbers along an axis of whole numbers: half a task is none."""
    if places := whole_ticks(values):
        figure.ruler(axis).ticks(places, [f"{at:,}" for at in places])


def whole_ticks(values: Sequence[float]) -> list[int]:
    """Return at most `_TICKS` + 2 whole numbers that are round and span the values.

    Empty = one of the values is no whole number, or they are too large to be written.
    """
    if not values or not all(one.is_integer() and abs(one) < _LONG for one in values):
        return []
    first, last = int(min(values)), int(max(values))
    wanted = max(1.0, (last - first) / _TICKS)
    size = 10 ** math.floor(math.log10(wanted))
    step = next(size * one for one in (1, 2, 5, 10) if size * one >= wanted)
    return [*range(-(-first // step) * step, last + 1, step)] or [first]


def _moments(series: Sequence[Series]) -> tuple[list[float], list[str]]:
    """Return where along a time something is written, and what: as exact as the span asks for."""
    first = min(min(one.xs) for one in series)
    span = max(max(one.xs) for one in series) - first
    places = [first + span * at / _TICKS for at in range(_TICKS + 1)] if span else [first]
    form = "%Y-%m-%d" if span > 2 * _DAY_S else "%m-%d %H:%M" if span > _HOUR_S else "%H:%M:%S"
    return places, [datetime.fromtimestamp(at, UTC).strftime(form) for at in places]


def _shown(labels: Sequence[str], width: int) -> list[str]:
    """Return labels that leave half of the width for bars, without marks that take no column."""
    plain = [unicodedata.normalize("NFC", one) for one in labels]
    kept = ["".join(ch for ch in one if not unicodedata.combining(ch)) for one in plain]
    return [fitted(one, width // 2) for one in kept]
