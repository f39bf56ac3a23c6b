"""A task's directory is opened by the name that was checked, and by no link."""

import os
from pathlib import Path

import pytest

from cmesh.sandbox.opening import open_directory


def test_a_directory_is_opened_by_its_real_path(tmp_path: Path) -> None:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    fd = open_directory(str(place))
    try:
        assert os.path.samestat(os.fstat(fd), place.stat())
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_another_directory_than_the_one_that_was_judged_is_refused(tmp_path: Path) -> None:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    info = place.stat()
    judged = (info.st_dev, info.st_ino)
    os.close(open_directory(str(place), judged))
    place.rename(place.with_name("moved"))
    place.mkdir()
    with pytest.raises(OSError, match="another directory now"):
        open_directory(str(place), judged)


def test_what_became_a_link_since_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    base = Path(os.path.realpath(tmp_path))
    (base / "real" / "below").mkdir(parents=True)
    (base / "link").symlink_to("real")
    for path in (base / "link", base / "link" / "below"):
        with pytest.raises(OSError, match="part of it is a link now"):
            open_directory(str(path))


def test_magic_links_files_and_nothing_are_refused(tmp_path: Path) -> None:
    file = Path(os.path.realpath(tmp_path)) / "file"
    file.write_text("x")
    for path in ("/proc/self/cwd", str(file), str(file.with_name("none"))):
        with pytest.raises(OSError, match=r"."):
            open_directory(path)
