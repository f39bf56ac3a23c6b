"""Values given to a statement: typed by their form, in order or by name, never spliced."""

import pytest

from cmesh.errors import UsageError
from cmesh.interfaces.cli.params import Value, bound


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0", 0),
        ("-1.50", -1.5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("True", "True"),
        ("NULL", "NULL"),
        ("", ""),
        ("007", "007"),
        ("12e4567", "12e4567"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("inf", "inf"),
        ('"5"', "5"),
        ('"', '"'),
        ('""', ""),
        ("'; DROP TABLE tasks; --", "'; DROP TABLE tasks; --"),
        ("9" * 40, "9" * 40),
        ("٣", "٣"),
        ("=x", "=x"),
        ("1a=2", "1a=2"),
        ('"a=b"', "a=b"),
    ],
)
def test_a_value_has_the_type_of_its_form(text: str, value: Value):
    [found] = bound([text])
    assert (type(found), found) == (type(value), value)
    if "=" not in text:
        assert bound([f"n={text}"]) == {"n": value}


def test_values_come_in_order_or_by_name():
    assert bound([]) == []
    assert bound(["a", "2"]) == ["a", 2]
    assert bound(["who=a=b", "n=2", 'q="x=y"']) == {"who": "a=b", "n": 2, "q": "x=y"}


@pytest.mark.parametrize("texts", [["a=1", "2"], ["2", "a=1"], ["a=1", "b=2", "a=1"]])
def test_a_mixture_or_a_name_twice_is_refused(texts: list[str]):
    with pytest.raises(UsageError):
        bound(texts)
