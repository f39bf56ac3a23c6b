"""The page on the link protocol is current and leaves no message out."""

import re

import pytest

from scripts.gen_state_table import BEGIN, PAGE, updated
from tests.contract.test_protocol_vectors import MESSAGES


def test_the_state_tables_in_the_docs_are_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert updated(text) == text


def test_a_changed_table_is_found() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("| C2 |", "| C99 |")
    assert updated(text) != text
    with pytest.raises(ValueError, match="lacks the line"):
        updated(text.replace(BEGIN, ""))


def test_every_message_has_its_section() -> None:
    headings = re.findall(r"(?m)^## \d+\. (.*)$", PAGE.read_text(encoding="utf-8"))
    named = set(re.findall(r"`(\w+)`", " ".join(headings)))
    assert named - {"cmesh"} == {vector["type"] for vector in MESSAGES}
