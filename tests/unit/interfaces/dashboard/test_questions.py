"""The saved questions of the audit page, and the files it gives."""

import json

import pytest

from cmesh.daemon.answers import SqlView
from cmesh.interfaces.dashboard.pages_audit import parameters
from cmesh.interfaces.dashboard.questions import grouped, questions
from cmesh.interfaces.tabular import csv_lines, json_lines
from scripts import gen_questions


def test_the_cookbook_is_what_can_be_asked():
    asked = gen_questions.questions(gen_questions.COOKBOOK.read_text("utf-8"))
    assert [one["sql"] for one in asked] == [one.sql for one in questions().values()]
    assert len(questions()) == len(asked)  # no two have one name
    assert [group for group, _ in grouped()] == list(dict.fromkeys(one["group"] for one in asked))


def test_a_block_without_a_question_stops_the_docs():
    with pytest.raises(SystemExit, match="no question"):
        gen_questions.questions("## Work\n\ntwo\nlines\n\n```sql\nSELECT 1\n```\n")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("7\n\ntrue\nnull\n1.5", [7, True, None, 1.5]),
        ('"7"\nlaptop\n2026-11-30', ["7", "laptop", "2026-11-30"]),
        ("[1]\n{", ["[1]", "{"]),
        ("[" * 100_000, ["[" * 100_000]),
    ],
)
def test_parameters_are_json_scalars_or_texts(text: str, values: list[object]):
    assert parameters(text) == values


ROWS = SqlView(
    columns=["who", "n"],
    types=["VARCHAR", "BIGINT"],
    rows=[["=1+1", -2], ['a "b", c', None], ["\x1b[2Jx", 3]],
)


def test_a_csv_file_holds_no_formula_and_no_control_character():
    assert "".join(csv_lines(ROWS)) == 'who,n\n\'=1+1,-2\n"a ""b"", c",\n[2Jx,3\n'


def test_a_json_file_is_the_rows_as_they_are():
    assert json.loads("".join(json_lines(ROWS))) == [
        {"who": "=1+1", "n": -2},
        {"who": 'a "b", c', "n": None},
        {"who": "\x1b[2Jx", "n": 3},
    ]
    assert json.loads("".join(json_lines(ROWS.model_copy(update={"rows": []})))) == []
