"""How a question back is read, by Python and by the database alike."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmesh.question import QUESTION_FORM, question_in

PIECES = ["CMESH-QUESTION:", "CMESH", "\r", "\n", "\r\n", " ", "*", "`", "> ", "Which?", "é", "\f"]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("CMESH-QUESTION: Which port?", "Which port?"),
        ("Looked.\n\n**CMESH-QUESTION: Which port?**\n", "Which port?"),
        ("> `CMESH-QUESTION: Which?`", "Which?"),
        ("CMESH-QUESTION: Which?\nI go on.", ""),
        ("So CMESH-QUESTION: Which?", ""),
        ("CMESH-QUESTION:", ""),
        ("CMESH-QUESTION:\nWhich?", ""),
        ("cmesh-question: which?", ""),
        ("", ""),
        ("CMESH-QUESTION: " + "x" * 2000, "x" * 1000),
    ],
)
def test_a_question_is_the_last_line_in_its_form(text: str, question: str) -> None:
    assert question_in(text) == question


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_the_pattern_of_the_store_finds_what_python_does(text: str) -> None:
    # In Python `$` is also before a last line end, which the pattern takes in anyway.
    assert bool(re.search(QUESTION_FORM, text)) == bool(question_in(text))
