"""Texts of options as values: a count as people write it."""

from pathlib import Path

import pytest

from cmesh.errors import UsageError
from cmesh.interfaces.cli.options import count, from_here


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("500", 500),
        ("10k", 10_000),
        ("2.5K", 2_500),
        ("2M", 2_000_000),
        ("0.25m", 250_000),
        ("50,000", 50_000),
        ("50_000", 50_000),
        (" 7 ", 7),
        ("1.50k", 1_500),
    ],
)
def test_a_count_is_read_as_people_write_it(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize("text", ["", "-1", "ten", "1.5", "1.2345k", "10kb", "1,00", "k", "1e3"])
def test_what_is_no_count_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        count(text)
    assert "write 500, 10k or 2M" in refused.value.hint


def test_a_directory_is_meant_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(tmp_path)
    given = ("src/app", ".", "/srv/app", "~/app", "")
    assert [from_here(one) for one in given] == [
        f"{tmp_path}/src/app", str(tmp_path), "/srv/app", "~/app", "",
    ]  # fmt: skip
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert (from_here("src"), from_here(".")) == ("src", "")
