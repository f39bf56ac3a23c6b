"""A quick plot: what of an answer is drawn, what cannot be, and that it fits its place."""

from typing import Any

import pytest
from rich.cells import cell_len

from cmesh.daemon.answers import SqlView
from cmesh.daemon.fleet_view import SqlNodeView
from cmesh.errors import UsageError
from cmesh.interfaces.cli.chart import draw, whole_ticks
from cmesh.interfaces.cli.charting import BARS_MOST, plan

TEXT, NUMBER, TIME = "VARCHAR", "BIGINT", "TIMESTAMP WITH TIME ZONE"
SEEN = SqlNodeView(node="here", node_id="n1", state="answered")


def view(types: list[str], *rows: list[Any], fleet: bool = False) -> SqlView:
    names = [f"c{at}" for at in range(len(types))]
    return SqlView(columns=names, types=types, rows=list(rows), nodes=[SEEN] if fleet else [])


@pytest.mark.parametrize(
    ("types", "row", "kind"),
    [
        ([TEXT, NUMBER], ["a", 1], "bar"),
        ([TIME, NUMBER], ["2026-01-02T00:00:00+00:00", 1], "line"),
        (["DATE", "DECIMAL(38,2)"], ["2026-01-02", "1.25"], "line"),
        (["DOUBLE", "HUGEINT", "UINTEGER"], [0.5, 1, 2], "line"),
        ([NUMBER], [5], "hist"),
        (["BOOLEAN", NUMBER], [True, 1], "bar"),
    ],
)
def test_the_columns_say_what_is_drawn(types: list[str], row: list[Any], kind: str):
    assert plan(view(types, row, row), "auto").kind == kind


@pytest.mark.parametrize(
    ("types", "rows", "kind", "said"),
    [
        ([TEXT, NUMBER], [], "auto", "no rows"),
        ([TEXT, TIME], [["a", "b"]], "auto", "no column of numbers"),
        ([NUMBER], [[1]], "bar", "one column alone"),
        ([TEXT, NUMBER], [["a", 1]], "line", "neither time nor number"),
        ([TEXT, NUMBER], [["a", None]], "bar", "no number in them"),
        ([TEXT, "DOUBLE"], [["a", "nan"]], "hist", "no number in it"),
        ([TIME, NUMBER], [["no time", 1]], "line", "both an x and a y"),
    ],
)
def test_what_cannot_be_drawn_says_why(types: list[str], rows: list[Any], kind: str, said: str):
    with pytest.raises(UsageError, match=said):
        plan(view(types, *rows), kind)


def test_lines_are_in_order_and_each_node_has_its_own():
    rows = [["here", 2, 20], ["box", 1, 5], ["here", 1, 10], ["box", None, 7]]
    found = plan(view([TEXT, NUMBER, NUMBER], *rows, fleet=True), "auto")
    assert [(one.name, one.xs, one.ys) for one in found.series] == [
        ("here", [1, 2], [10, 20]),
        ("box", [1], [5]),
    ]
    assert found.notes == ["1 point left out: no number"]


def test_more_bars_than_are_taken_in_are_left_out_and_told():
    rows = [[f"r{at}", at] for at in range(100)]
    found = plan(view([TEXT, NUMBER], *rows), "bar")
    assert len(found.labels) == BARS_MOST
    assert found.notes == [f"the first {BARS_MOST} of 100 rows are drawn"]
    several = plan(view([TEXT, NUMBER], *rows[:2], fleet=True), "hist")
    assert several.kind == "hist"


PLOTS = [
    view([TEXT, NUMBER], ["日本語テキスト", 3], ["e\u0301", -1.5], [None, 0]),
    view([TEXT, NUMBER, "DOUBLE"], ["a" * 99, 3, 1e300], ["\x1b[31mred\u202e", 1, None]),
    view([TIME, NUMBER], ["2026-01-02T00:00:00+00:00", 1], ["2026-01-03T00:00:00+00:00", 2]),
    view([TIME, NUMBER], ["2026-01-02T00:00:00+00:00", 1], ["2026-01-02T00:00:00+00:00", 1]),
    view([NUMBER], *[[at % 7] for at in range(50)]),
]


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("answer", PLOTS)
def test_a_plot_is_as_wide_as_its_place_and_plain_without_colour(answer: SqlView, width: int):
    found = plan(answer, "auto")
    plain = draw(found, width, 12, colour=False)
    assert "\x1b" not in plain
    assert "\u202e" not in plain
    assert {cell_len(line) for line in plain.splitlines()[1:-1]} == {width}
    coloured = draw(found, width, 12, colour=True)
    assert "\x1b[38;5;" in coloured
    assert "\x1b[31m" not in coloured


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([0, 7], [0, 2, 4, 6]),
        ([0, 1], [0, 1]),
        ([5], [5]),
        ([1, 29], [10, 20]),
        ([-3, 3], [-2, 0, 2]),
        ([0, 29_000], [0, 10_000, 20_000]),
        ([0, 0.5], []),
        ([0, 1e300], []),
        ([], []),
    ],
)
def test_whole_numbers_have_whole_marks(values: list[float], places: list[int]):
    assert whole_ticks([float(one) for one in values]) == places


def test_counts_have_no_fractions_along_their_axes():
    counted = view([TEXT, NUMBER], ["a", 1], ["b", 3])
    assert "." not in draw(plan(counted, "bar"), 80, 12, colour=False)
    assert "." not in draw(plan(view([NUMBER], [1], [1], [4]), "hist"), 80, 12, colour=False)
