"""TOML of a person: where its keys stand, and in which line it stops being TOML."""

import pytest

from cmesh.tomltext import TomlMistake, line_of, read_table


def test_lines_are_found_around_strings_that_look_like_keys() -> None:
    text = 'a = """\n[node]\nb = 1\n"""\n\n[node] # c\n"tags" = []\n[[x.y]]\n[x.y.z]\nk = 1\n[[ x . y ]]\n'
    assert line_of(text, ("node",)) == 6
    assert line_of(text, ("node", "tags", 0)) == 7
    assert line_of(text, ("x", "y", 0, "z", "k")) == 10
    assert line_of(text, ("x", "y", 1, "other")) == 11
    assert line_of(text, ("b",)) is None


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a = [\n\n", 3, "not TOML: Invalid value"),
        ("a = 1\nb = ?\n", 2, "not TOML: Invalid value, column 5"),
        (f"a = {'1' * 5000}", None, "not TOML: Exceeds the limit"),
        (f"a = {'[' * 3000}", None, "nested too deeply"),
    ],
)
def test_what_is_no_toml_is_told_by_its_line(text: str, line: int | None, said: str) -> None:
    with pytest.raises(TomlMistake) as caught:
        read_table(text)
    assert (caught.value.line, caught.value.expected[: len(said)]) == (line, said)
