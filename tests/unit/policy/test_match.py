"""Paths, whole component by whole component."""

import pytest

from cmesh.policy.match import is_at_or_below, normal_path, overlaps


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("/", "/"),
        ("/srv", "/srv"),
        ("/srv/", "/srv"),
        ("//srv//x/.", "/srv/x"),
        ("/srv/..x/...", "/srv/..x/..."),
        ("", None),
        ("srv", None),
        ("~/x", None),
        ("/srv/..", None),
        ("/../srv", None),
        ("/srv/x\0", None),
    ],
)
def test_only_an_absolute_path_without_dots_is_normal(text: str, normal: str | None) -> None:
    assert normal_path(text) == normal


@pytest.mark.parametrize(
    ("path", "below"),
    [("/a/b", True), ("/a/b/c", True), ("/a/bc", False), ("/a", False), ("/a/b/../b", False)],
)
def test_below_means_by_whole_components(path: str, below: bool) -> None:
    assert is_at_or_below(path, ("/x", "/a/b/")) is below


def test_a_root_that_is_no_path_holds_nothing() -> None:
    assert not is_at_or_below("/a", ("a", "", "/a/.."))
    assert is_at_or_below("/a", ("/",))


def test_overlap_counts_both_ways() -> None:
    assert overlaps("/a", ("/a/b",))
    assert overlaps("/a/b/c", ("/a/b",))
    assert overlaps("/", ("/a/b",))
    assert not overlaps("/a/bc", ("/a/b",))
    assert overlaps("a", ("/a",)) is None
