"""The page on the link protocol is current and leaves no message out."""

import re
from pathlib import Path

import pytest

from cmesh.protocol.row import REPORTED, SAME
from cmesh.protocol.table import CALLER, WORKER
from cmesh.protocol.witness import WITNESS
from scripts.gen_state_table import BEGIN, OVERVIEW, PAGE, PAGES, render_states, updated
from tests.contract.test_protocol_vectors import MESSAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_docs_print_of_the_tables_is_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert updated(text, PAGES[page], page.name) == text


def test_a_changed_drawing_is_found() -> None:
    text = OVERVIEW.read_text(encoding="utf-8").replace("queued --> sent : C2", "queued --> sent")
    assert updated(text, render_states) != text


def test_every_state_that_a_row_leads_to_has_its_witness() -> None:
    for row in (*CALLER, *WORKER):
        if row.next not in {SAME, REPORTED}:
            assert WITNESS[row.side, row.next], row


def test_the_drawing_has_every_row_that_changes_a_state() -> None:
    drawn = set(re.findall(r"\b[CW]\d+\b", render_states()))
    assert drawn == {row.id for row in (*CALLER, *WORKER) if row.next != SAME}


def test_a_changed_table_is_found() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("| C2 |", "| C99 |")
    assert updated(text) != text
    with pytest.raises(ValueError, match="lacks the line"):
        updated(text.replace(BEGIN, ""))


def test_every_message_has_its_section() -> None:
    headings = re.findall(r"(?m)^## \d+\. (.*)$", PAGE.read_text(encoding="utf-8"))
    named = set(re.findall(r"`(\w+)`", " ".join(headings)))
    assert named - {"cmesh"} == {vector["type"] for vector in MESSAGES}
