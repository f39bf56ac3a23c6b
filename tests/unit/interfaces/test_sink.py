"""Where rows are written: a new file, whole, its owner's alone."""

import os
from pathlib import Path

import pytest

from cmesh.errors import DiskFull, UsageError
from cmesh.interfaces.cli.sink import Sink


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        Sink(str(tmp_path / "rows"), force=False).write("a\n")
    finally:
        os.umask(before)
    assert (tmp_path / "rows").read_text("utf-8") == "a\n"
    assert (tmp_path / "rows").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["rows"]


def test_a_file_that_is_there_stays_without_a_word(tmp_path: Path):
    path = tmp_path / "rows"
    path.write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        Sink(str(path), force=False)
    assert path.read_text() == "mine"
    Sink(str(path), force=True).write("new")
    assert path.read_text() == "new"


def test_a_file_that_came_meanwhile_stays_too(tmp_path: Path):
    path = tmp_path / "rows"
    sink = Sink(str(path), force=False)
    path.write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        sink.write("new")
    assert (path.read_text(), names(tmp_path)) == ("mine", ["rows"])


@pytest.mark.parametrize("links", [True, False])
def test_a_file_system_without_links_does_as_well(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_paths: object) -> None:
        raise OSError(95, "not supported")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "rows"
    Sink(str(path), force=False).write("new")
    late = Sink(str(tmp_path / "late"), force=False)
    (tmp_path / "late").write_text("mine")
    with pytest.raises(UsageError):
        late.write("x")
    assert names(tmp_path) == ["late", "rows"]


@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_plain_file_is_never_replaced(force: bool, tmp_path: Path):
    (tmp_path / "there").write_text("x")
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe", ".", "/dev/null"):
        with pytest.raises(UsageError, match="no plain file"):
            Sink(str(tmp_path / name), force=force)
    with pytest.raises(UsageError, match="a folder that is not there"):
        Sink(str(tmp_path / "no" / "rows"), force=force)


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(28, "full"), DiskFull), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_what_breaks_half_way_leaves_nothing(
    error: BaseException, told: type[BaseException], tmp_path: Path
):
    def half() -> None:
        with Sink(str(tmp_path / "rows"), force=False).made() as place:
            place.write_text("half")
            raise error

    with pytest.raises(told):
        half()
    assert names(tmp_path) == []


def test_force_needs_a_file():
    with pytest.raises(UsageError):
        Sink("", force=True)
