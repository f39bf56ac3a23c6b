"""What completes a statement: views after FROM and JOIN, else columns of the views it names."""

import pytest

from cmesh.interfaces.cli import complete
from cmesh.interfaces.cli.complete import (
    complete_peers,
    complete_report,
    complete_statement,
    complete_view,
    statement_words,
)
from cmesh.interfaces.schema import known_views


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        ("", ["SELECT"]),
        ("se", ["SELECT"]),
        ("SELECT * FROM ta", ["tasks"]),
        ("select * from TA", ["tasks"]),
        ("SELECT * FROM tasks JOIN den", ["denials"]),
        ("SELECT * FROM tasks, den", ["denials"]),
        ("SELECT * FROM tasks AS t, den", ["denials"]),
        ("SELECT * FROM tasks t, results, den", ["denials"]),
        ("SELECT head_h", ["head_hash"]),
        ("SELECT pro FROM tasks WHERE witnes", ["witness"]),
        ("SELECT t.witnes", ["witness"]),
        ("SELECT * FROM tasks WHERE head_h", []),
        ("SELECT * FROM tasks WHERE state = 'x from ta", []),
        ("SELECT * FROM tasks WHERE state = 'from' AND witnes", ["witness"]),
        ("SELECT nosuch", []),
    ],
)
def test_a_name_is_completed_by_what_stands_before_it(begun: str, words: list[str]):
    assert statement_words(begun) == words


def test_after_from_there_are_all_views_and_no_column():
    assert statement_words("SELECT * FROM ") == list(known_views())
    assert set(statement_words("SELECT * FROM costs WHERE ")) == set(known_views()["costs"])


def test_a_shell_gets_whole_words_and_none_is_the_last():
    assert complete_statement("SELECT * FROM ta") == ["SELECT * FROM tasks", "SELECT * FROM tasks "]
    assert complete_statement("SELECT\n* FROM ta") == []
    assert "SELECT peer" in complete_statement("SELECT pee")


def test_names_of_views_reports_and_peers(monkeypatch: pytest.MonkeyPatch):
    assert complete_view("dec") == ["decisions"]
    assert complete_report("unu") == ["unused-rules"]

    def peers(begun: str) -> list[str]:
        return [name for name in ("box", "bar") if name.startswith(begun)]

    monkeypatch.setattr(complete, "complete_peer", peers)
    assert complete_peers("b") == ["box", "bar"]
    assert complete_peers("a") == ["all"]
    assert complete_peers("box,") == ["box,bar"]
