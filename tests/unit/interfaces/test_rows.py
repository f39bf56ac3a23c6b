"""Rows as text: nothing is lost, nothing steers a terminal, nothing is a formula."""

import csv
import io
import json

import pytest

from cmesh.daemon.answers import SqlView
from cmesh.interfaces.cli.rows import cut, text_of

VIEW = SqlView(
    columns=["n", "text", "n"],
    types=["BIGINT", "VARCHAR", "DOUBLE"],
    rows=[[1, "a;=1+1", -1.5], [None, "x\x1b[31m\u202e", None]],
)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_columns_of_one_name_are_all_there(form: str):
    text = text_of(VIEW, form)
    assert not set(text) & set("\x1b\u202e")
    found = json.loads(text) if form == "json" else [json.loads(one) for one in text.splitlines()]
    assert found == [
        {"n": 1, "text": "a;=1+1", "n_1": -1.5},
        {"n": None, "text": "x\x1b[31m\u202e", "n_1": None},
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_is_a_formula_whatever_parts_the_cells(delimiter: str):
    texts = ["a;=1+1", "a\t@x", 'a; "-1', "a;b", "x;＝1", "plain"]  # noqa: RUF001
    view = SqlView(columns=["n", "t"], types=["BIGINT", "VARCHAR"], rows=[[1, t] for t in texts])
    for row in csv.reader(io.StringIO(text_of(view, "csv")), delimiter=delimiter):
        assert not [one for one in row if one.strip(' "').startswith(("=", "+", "-", "@", "＝"))]  # noqa: RUF001


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "＝1", "＋1", "－1", "＠x"])  # noqa: RUF001
def test_no_text_is_a_formula(text: str):
    view = SqlView(columns=[text], types=["VARCHAR"], rows=[[text], [-1]])
    header, row, number = csv.reader(io.StringIO(text_of(view, "csv")))
    assert header[0] == row[0] or row[0] == f"'{text}"
    assert row[0].startswith("'")
    assert number == ["-1"]


def test_a_table_in_a_file_is_lines_with_tabs():
    assert text_of(VIEW, "table") == "n\ttext\tn\n1\ta;=1+1\t-1.5\n\tx[31m\t\n"


def test_the_limit_that_cut_is_named():
    assert cut(VIEW) == ""
    assert "raise --limit" in cut(VIEW.model_copy(update={"truncated": True, "cut_by": "rows"}))
    assert "too long" in cut(VIEW.model_copy(update={"truncated": True, "cut_by": "bytes"}))
