"""Trees that agents leave behind, removed without a look outside of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cmesh.runner import task_files
from cmesh.runner.task_files import delete_tree


@pytest.mark.parametrize("mode", [0o500, 0o300, 0o000])
def test_a_tree_whose_top_nobody_may_enter_is_removed(tmp_path: Path, mode: int) -> None:
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "file").touch()
    top.chmod(mode)  # root may do all, so this shows more to any other user
    delete_tree(top)
    assert not top.exists()


def _link(path: Path) -> None:
    path.symlink_to("/")


@pytest.mark.parametrize("make", [Path.touch, _link])
def test_what_is_no_folder_stays_without_an_error(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "top")
    delete_tree(tmp_path / "top")


def test_a_folder_that_became_a_link_opens_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, inner = tmp_path / "outside", tmp_path / "top" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    outside.mkdir(mode=0o755)
    (outside / "kept").touch()
    looked = task_files._clear  # pyright: ignore[reportPrivateUsage]

    def swapped(folder: int) -> list[str]:
        found = looked(folder)
        if found == ["inner"]:
            inner.rename(tmp_path / "moved")
            inner.symlink_to(outside)
        return found

    monkeypatch.setattr(task_files, "_clear", swapped)
    delete_tree(tmp_path / "top")
    assert (outside / "kept").exists()
    assert outside.stat().st_mode & 0o777 == 0o755
