"""Tables on a narrow terminal: whole columns or none, and no id that is cut."""

import pytest

from cmesh.interfaces.cli.fitting import fitted, layout, wrapped

ID = "01a22e64-4516-704e-b593-ba581f9ba3bc"
COLUMNS = ("ID", "STATE", "RUNNER", "GROUP", "PROMPT")
ROWS = [(ID, "succeeded", "claude", "", "look at the parser " * 9)]
WANTED = ("STATE", "RUNNER", "GROUP")


def names(width: int) -> list[str] | None:
    found = layout(COLUMNS, ROWS, width, may_lack=WANTED, cut=frozenset({"PROMPT"}))
    return None if found is None else [COLUMNS[at] for at in found]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (500, list(COLUMNS)),
        (80, ["ID", "STATE", "RUNNER", "PROMPT"]),  # nothing is in GROUP
        (64, ["ID", "STATE", "PROMPT"]),
        (50, ["ID", "PROMPT"]),
        (49, None),
    ],
)
def test_a_narrow_terminal_lacks_the_columns_that_are_wanted_least(
    width: int, shown: list[str] | None
):
    assert names(width) == shown


@pytest.mark.parametrize("width", range(50, 260))
def test_what_is_shown_fits_and_only_texts_are_cut(width: int):
    found = layout(COLUMNS, ROWS, width, may_lack=WANTED, cut=frozenset({"PROMPT"}))
    assert found is not None
    assert sum(found.values()) + 2 * (len(found) - 1) <= width
    assert found[0] == len(ID)
    assert all(size >= len(ROWS[0][at]) for at, size in found.items() if COLUMNS[at] != "PROMPT")


def test_room_that_is_left_goes_to_what_was_cut():
    rows = [("a" * 30, "b" * 30)]
    cut = frozenset({"A", "B"})
    assert layout(("A", "B"), rows, 52, may_lack=(), cut=cut) == {0: 25, 1: 25}
    assert layout(("A", "B"), [("a" * 13, "b" * 90)], 52, may_lack=(), cut=cut) == {0: 13, 1: 37}
    assert layout(("A", "B"), rows, 20, may_lack=(), cut=cut) is None


def test_a_line_ends_between_words_and_never_within_an_id():
    assert wrapped(f"ask {ID} again", 30) == ["ask", ID, "again"]
    assert wrapped("one\n\ntwo", 30) == ["one", "", "two"]
    assert wrapped("a b c", 1) == ["a b c"]  # no room at all: left as it is


def test_a_cut_text_counts_wide_characters_as_they_are_drawn():
    assert fitted("日本語", 5) == "日本…"
    assert fitted("日本語", 6) == "日本語"
