"""What a shim's look at the disk counts, and when it says that a task must be ended."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from cmesh.runner import shim_disk
from cmesh.runner.shim_disk import ROUND_PAUSE_S, SLICE_PAUSE_S, DiskWatch, held_open

MIB = 1024**2
SELF = [os.getpid()]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    (place / "old").mkdir(parents=True)
    write(place / "old" / "file", 8)
    return place


def write(path: Path, mib: int) -> None:
    path.write_bytes(os.urandom(mib * MIB))


def watch(
    *places: Path, copy: Path | None = None, most: int = 4, floor: int = 0, free: int = 0
) -> DiskWatch:
    order = {
        "places": [str(place) for place in places],
        "copy": str(copy or ""),
        "most_bytes": most * MIB,
        "floor_bytes": floor * MIB,
    }
    return DiskWatch(order, lambda _place: free * MIB)


def whole(disk: DiskWatch) -> str:
    """Look until everything has been looked at once, or something is said."""
    while True:
        said = disk.look(0.0, lambda: SELF)
        if said or disk.next_at == ROUND_PAUSE_S:
            return said


def test_what_was_there_does_not_count_and_what_is_added_does(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    disk = watch(place, other)
    assert (whole(disk), disk.grown) == ("", 0)
    write(place / "old" / "new", 2)
    write(other / "new", 1)
    assert whole(disk) == ""
    assert 3 * MIB <= disk.grown < 3.1 * MIB
    write(other / "more", 2)
    assert whole(disk) == "it took 5 MiB of disk and may take 4 MiB"
    (other / "more").unlink()
    assert whole(disk) == ""


def test_it_is_seen_in_the_middle_of_a_round(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim_disk, "SLICE_NAMES", 2)
    disk = watch(place)
    for number in range(12):
        write(place / f"{number}", 3)
    looks = 1
    while not disk.look(5.0, lambda: SELF):
        assert disk.next_at == 5.0 + SLICE_PAUSE_S
        looks += 1
    assert looks < 8  # of 8 in each of two rounds


def test_what_is_moved_ahead_of_a_look_is_counted_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_disk, "SLICE_NAMES", 1)
    disk = watch(place)
    for name in "ab":
        (place / name).mkdir()
    write(place / "a" / "large", 3)
    seen, other = "", place / "b" / "large"
    while disk.next_at != ROUND_PAUSE_S:
        seen += disk.look(0.0, lambda: SELF)
        if disk.grown >= 3 * MIB and not other.exists():
            (place / "a" / "large").rename(other)
    assert (seen, whole(disk)) == ("", "")
    assert 3 * MIB <= disk.grown < 3.1 * MIB


def test_a_file_of_several_names_counts_once_and_a_hole_not_at_all(place: Path) -> None:
    disk = watch(place)
    write(place / "one", 3)
    os.link(place / "one", place / "two")
    os.truncate(place / "old" / "file", 1024 * MIB)
    assert whole(disk) == ""
    assert 3 * MIB <= disk.grown < 3.1 * MIB


def test_a_copy_that_gets_its_blocks_late_has_not_grown(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for folder in (place, copy):
        (folder / "late").touch()
        os.truncate(folder / "late", 6 * MIB)
    disk = watch(place, copy=copy)
    write(copy / "late", 6)
    assert (whole(disk), disk.grown < MIB) == ("", True)
    write(copy / "new", 7)
    assert whole(disk).startswith("it took 7 MiB")
    (copy / "new").unlink()
    write(place / "late", 6)  # what may be the task's own of an earlier turn was a hole
    assert whole(disk).startswith("it took 6 MiB")


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    disk = watch(place)
    write(tmp_path / "large", 8)
    (place / "out").symlink_to(tmp_path)
    (place / "file").symlink_to(tmp_path / "large")
    assert (whole(disk), disk.grown < MIB, disk.blind) == ("", True, False)


def test_a_place_that_became_a_link_is_not_measured(place: Path, tmp_path: Path) -> None:
    disk = watch(place)
    place.rename(tmp_path / "moved")
    place.symlink_to("moved")
    assert (whole(disk), disk.blind) == ("", True)


def test_more_folders_than_are_kept_in_mind_are_not_measured(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = watch(place)
    for number in range(5):
        (place / f"{number}").mkdir()
    monkeypatch.setattr(shim_disk, "FOLDERS_MOST", 3)
    assert (whole(disk), disk.blind) == ("", True)


@pytest.fixture
def unnamed(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Return what makes this process hold so many MiB in a file without a name."""
    held: list[int] = []

    def hold(mib: int) -> None:
        write(tmp_path / "unnamed", mib)
        held.append(os.open(tmp_path / "unnamed", os.O_RDONLY))
        (tmp_path / "unnamed").unlink()

    yield hold
    for fd in held:
        os.close(fd)


def test_a_disk_without_room_ends_who_took_it_and_nobody_else(
    place: Path, unnamed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_disk, "SHARE_BYTES", 2 * MIB)
    full, wide = (watch(place, most=100, floor=128, free=free) for free in (63, 64))
    assert whole(full) == whole(wide) == ""
    unnamed(1)
    assert whole(full) == ""
    unnamed(1)
    assert whole(wide) == ""
    assert whole(full) == (
        "the disk has 63 MiB left of the 64 MiB that it must keep, and the task took 2 MiB"
    )
    write(place / "new", 3)
    assert whole(full).endswith("and the task took 3 MiB")


def test_what_cannot_be_measured_is_no_way_round_a_full_disk(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = watch(place, most=100, floor=128, free=1)
    monkeypatch.setattr(shim_disk, "FOLDERS_MOST", 0)
    assert whole(disk).endswith("the task took 0 MiB, and some that cannot be measured")


class Entries:
    """What a folder shows; `failing` names the call that a real disk or right would refuse."""

    def __init__(self, failing: str) -> None:
        self.failing, self.left = failing, 1

    def of(self, _folder: int) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        if self.failing == "next":
            raise OSError(errno.EIO, "the disk")
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self

    def stat(self, *, follow_symlinks: bool) -> object:
        assert not follow_symlinks
        raise PermissionError if self.failing == "stat" else FileNotFoundError


@pytest.mark.parametrize(("failing", "blind"), [("next", True), ("stat", True), ("gone", False)])
def test_a_folder_that_fails_ends_no_look_and_is_not_taken_for_an_empty_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, failing: str, *, blind: bool
) -> None:
    disk = watch(place)
    entries = Entries(failing)
    monkeypatch.setattr(os, "scandir", entries.of)
    assert (whole(disk), disk.blind) == ("", blind)


def test_a_disk_without_room_is_seen_in_the_middle_of_a_round(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_disk, "SLICE_NAMES", 1)
    monkeypatch.setattr(shim_disk, "SHARE_BYTES", 2 * MIB)
    disk = watch(place, most=100, floor=128, free=1)
    for number in range(20):
        write(place / f"{number}", 1)
    looks = 1
    while not disk.look(0.0, lambda: SELF):
        looks += 1
    assert looks < 15


def test_a_round_without_an_end_is_no_way_round_a_full_disk(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_disk, "SLICE_NAMES", 1)
    monkeypatch.setattr(shim_disk, "ROUND_SLICES", 3)
    disk = watch(place, most=100, floor=128, free=1)
    for number in range(6):
        write(place / f"{number}", 0)
    said = [disk.look(0.0, lambda: SELF) for _ in range(4)]
    assert said[:3] == ["", "", ""]
    assert said[3].endswith("the task took 0 MiB, and some that cannot be measured")


def test_places_that_were_taken_away_end_nothing(place: Path, tmp_path: Path) -> None:
    order = {"places": [str(place)], "copy": "", "most_bytes": 0, "floor_bytes": 1 << 60}
    disk = DiskWatch(order)
    place.rename(tmp_path / "moved")
    assert (whole(disk), disk.blind) == ("", True)


def test_a_file_that_is_held_open_counts_once_and_on_its_own_disk(
    place: Path, unnamed: Callable[[int], None]
) -> None:
    before, _ = held_open(SELF, str(place))
    unnamed(2)
    assert held_open([*SELF, *SELF], str(place)) == (before + 2 * MIB, False)
    assert held_open(SELF, "/proc") == (0, False)


def test_more_open_files_than_are_looked_at_are_not_measured(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not held_open(SELF, str(place))[1]
    monkeypatch.setattr(shim_disk, "OPEN_MOST", 2)
    assert held_open(SELF, str(place))[1]
