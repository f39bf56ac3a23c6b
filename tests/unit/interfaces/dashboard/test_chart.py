"""What a chart shows of rows, and when there is nothing to draw."""

import pytest

from cmesh.daemon.answers import SqlView
from cmesh.interfaces.dashboard.chart import BARS_MOST, chart_of, measures

COSTS = SqlView(
    columns=["peer", "runner", "tasks", "usd", "seq"],
    types=["VARCHAR", "VARCHAR", "BIGINT", "DOUBLE", "BIGINT"],
    rows=[["builder", "claude", 8, 1.5, 90], ["laptop", "codex", 2, None, 91], ["x", "y", 4, 6, 1]],
)


def days(*rows: tuple[str, int | None]) -> SqlView:
    return SqlView(
        columns=["day", "tasks"], types=["DATE", "BIGINT"], rows=[list(row) for row in rows]
    )


def test_names_lie_in_the_order_of_the_rows_and_are_percents_of_the_longest():
    chart = chart_of(COSTS)
    assert chart is not None
    assert (chart.measure, chart.standing, chart.named_by) == ("tasks", False, ["peer", "runner"])
    assert [(bar.label, bar.value, bar.share) for bar in chart.bars] == [
        ("builder · claude", "8", 100.0),
        ("laptop · codex", "2", 25.0),
        ("x · y", "4", 50.0),
    ]
    assert chart.summary == "tasks of 3 rows; the largest is 8, of builder · claude"


def test_another_measure_is_drawn_when_asked_for_and_null_has_no_bar():
    assert measures(COSTS) == ["tasks", "usd"]
    chart = chart_of(COSTS, "usd")
    assert chart is not None
    assert [bar.label for bar in chart.bars] == ["builder · claude", "x · y"]
    assert chart_of(COSTS, "no such") == chart_of(COSTS)


def test_times_that_tell_rows_apart_stand_in_their_order():
    chart = chart_of(days(("2026-11-30", 3), ("2026-11-28", 1), ("2026-11-29", 2)))
    assert chart is not None
    assert chart.standing
    assert [(bar.label, bar.at) for bar in chart.bars] == [
        ("2026-11-28", 0.0),
        ("2026-11-29", 33.333),
        ("2026-11-30", 66.667),
    ]
    twice = chart_of(days(("2026-11-30", 3), ("2026-11-30", 1)))
    assert twice is not None
    assert not twice.standing


def test_more_rows_than_can_be_told_apart_are_said_to_be_left_out():
    many = SqlView(
        columns=["peer", "tasks"],
        types=["VARCHAR", "BIGINT"],
        rows=[[f"peer-{number}", number] for number in range(BARS_MOST + 5)],
    )
    chart = chart_of(many)
    assert chart is not None
    assert len(chart.bars) == BARS_MOST
    assert "5 more are in the table only" in chart.summary


@pytest.mark.parametrize(
    ("types", "rows"),
    [
        (["VARCHAR", "BIGINT"], [["a", 1]]),
        (["VARCHAR", "BIGINT"], [["a", -1], ["b", 2]]),
        (["VARCHAR", "BIGINT"], [["a", None], ["b", None]]),
        (["VARCHAR", "VARCHAR"], [["a", "1"], ["b", "2"]]),
        (["BIGINT", "BIGINT"], [[1, 1], [2, 2]]),
        (["VARCHAR", "DOUBLE"], [["a", "NaN"], ["b", "inf"]]),
        (["VARCHAR", "BIGINT[]"], [["a", [1]], ["b", [2]]]),
    ],
)
def test_what_cannot_be_drawn_is_not(types: list[str], rows: list[list[object]]):
    assert chart_of(SqlView(columns=["a", "b"], types=types, rows=rows)) is None


def test_nothing_but_zeros_is_drawn_as_zeros():
    chart = chart_of(days(("2026-11-30", 0), ("2026-11-29", 0)))
    assert chart is not None
    assert {bar.share for bar in chart.bars} == {0.0}


def test_hostile_names_are_one_short_line():
    rows: list[list[object]] = [["<script>\n\u202e" + "x" * 500, 1], ["b", 2]]
    chart = chart_of(SqlView(columns=["a", "n"], types=["VARCHAR", "BIGINT"], rows=rows))
    assert chart is not None
    assert len(chart.bars[0].label) <= 36
    assert "\u202e" not in chart.bars[0].label
