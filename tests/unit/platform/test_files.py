"""A file takes another's place as one step, on Windows after a wait for who has it open."""

import subprocess
from pathlib import Path

import pytest

from cmesh.platform import files
from cmesh.platform.windows import files as windows

SHARING_VIOLATION = 32


class InUse(OSError):
    """As Windows raises it: Python there sets `winerror` beside `errno`."""

    def __init__(self, number: int) -> None:
        super().__init__(13, "in use")
        self.winerror = number


def test_a_file_in_use_on_windows_is_replaced_once_it_is_let_go(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new", "ascii")
    target.write_text("old", "ascii")
    slept: list[float] = []

    def move(one: Path, other: Path) -> None:
        if len(slept) < 3:
            raise InUse(SHARING_VIOLATION)
        one.replace(other)

    windows.replace(source, target, move=move, sleep=slept.append)
    assert target.read_text("ascii") == "new"
    assert slept == [0.001, 0.002, 0.004]


@pytest.mark.parametrize(("number", "waits"), [(SHARING_VIOLATION, True), (112, False)])
def test_a_replacing_on_windows_ends_with_the_last_refusal(number: int, waits: bool) -> None:
    slept: list[float] = []

    def move(one: Path, other: Path) -> None:
        raise InUse(number)

    with pytest.raises(InUse):
        windows.replace(Path("new"), Path("old"), move=move, sleep=slept.append)
    assert (windows.REPLACE_LIMIT_S <= sum(slept) < 2 * windows.REPLACE_LIMIT_S) is waits


@pytest.mark.parametrize(
    ("asked", "real"),
    [
        ("c:/link/a/b", r"D:\out\a\b"),
        (r"C:\work\none\more", r"C:\work\none\more"),
        (r"C:\none", r"C:\none"),
        (r"C:\work\dangling", ""),
        (r"C:\work\dangling\below", ""),
        (r"C:\work\locked", ""),
        (r"E:\work", ""),
        (r"\\server\share", r"\\server\share"),
    ],
)
def test_what_windows_cannot_resolve_has_no_real_name(asked: str, real: str) -> None:
    disk = {"C:\\": "C:\\", r"C:\work": r"C:\work", r"C:\link": r"D:\out"}

    def resolve(place: str) -> str:
        if place.endswith("locked"):
            raise InUse(SHARING_VIOLATION)
        if place not in disk:
            raise FileNotFoundError(place)
        return disk[place]

    def is_there(place: str) -> bool:
        return place.endswith("dangling")

    assert windows.real_name(asked, resolve=resolve, is_there=is_there) == real


def test_two_names_are_exchanged_as_one_step(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1", "ascii")
    other.mkdir()
    if not files.exchange(one, other):
        pytest.skip("this file system swaps no names")
    assert one.is_dir()
    assert other.read_text("ascii") == "1"


def test_a_name_that_is_not_there_is_not_exchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("argv", [files.copy_argv, windows.copy_argv])
def test_the_command_copies_files_under_their_names(argv: type, tmp_path: Path) -> None:
    for name in ("-a b", "ü"):
        (tmp_path / name).write_text(name, "utf-8")
    (tmp_path / "to").mkdir()
    command = argv([tmp_path / "-a b", tmp_path / "ü"], tmp_path / "to")
    subprocess.run(command, check=True, timeout=30)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["-a b", "ü"]
