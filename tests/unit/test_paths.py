"""A file put in another's place: whole, durable, or not at all."""

import os
import stat
from pathlib import Path

import pytest

from cmesh.paths import replace_file


def test_it_takes_the_place_with_its_mode_whatever_the_umask_is(tmp_path: Path) -> None:
    path, before = tmp_path / "file", os.umask(0o077)
    try:
        replace_file(path, b"one", mode=0o644)
        replace_file(path, b"two", mode=0o640)
    finally:
        os.umask(before)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o640)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    aim, link = tmp_path / "aim", tmp_path / "link"
    aim.write_bytes(b"theirs")
    link.symlink_to(aim)
    replace_file(link, b"ours")
    assert (aim.read_bytes(), link.is_symlink(), link.read_bytes()) == (b"theirs", False, b"ours")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fails(_handle: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        replace_file(path, b"new", check=fails)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="space"):
        replace_file(path, b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
