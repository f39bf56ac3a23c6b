"""Abuse cases 7 and 8: a directory leads out of its root, or is swapped while it is looked at.

Judged from outside: by device and inode of what was opened, never by its name.
`CMESH_RACE_TRIES` sets the tries of the race; the long form is 1,000,000.
"""

import ctypes
import errno
import multiprocessing
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.beneath import identity, open_beneath, open_judged, open_root

RACE_TRIES = int(os.environ.get("CMESH_RACE_TRIES", "20000"))
STARTED_LIMIT_S = 20.0
RENAME_EXCHANGE = 2


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a root with what lies in it, beside a place that nobody may reach."""
    root = tmp_path / "srv" / "myapp"
    for name in ("releases/1", "releases/2", "src"):
        (root / name).mkdir(parents=True)
    (tmp_path / "secret" / "keys").mkdir(parents=True)
    (root / "current").symlink_to("releases/2")
    (root / "file").write_text("no directory", "utf-8")
    return root


@contextmanager
def rooted(root: Path) -> Generator[int]:
    fd = open_root(str(root))
    try:
        yield fd
    finally:
        os.close(fd)


def opened(root: int, relative: str) -> tuple[int, int]:
    """Return what opens, as device and inode."""
    fd = open_beneath(root, relative)
    try:
        return identity(fd)
    finally:
        os.close(fd)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def of(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


def test_what_lies_below_opens_also_through_links_that_stay_below(tree: Path) -> None:
    (tree / "deploy").symlink_to("current/../1")
    with rooted(tree) as root:
        assert opened(root, "") == opened(root, ".") == of(tree)
        assert opened(root, "src") == of(tree / "src")
        assert opened(root, "current") == of(tree / "releases" / "2")
        assert opened(root, "src/../current") == of(tree / "releases" / "2")
        assert opened(root, "deploy") == of(tree / "releases" / "1")


LEADS_OUT = {
    "dot dot": ("..", None),
    "dot dot further down": ("src/../../../secret", None),
    "an absolute name": ("/", None),
    "an absolute name of the root itself": ("{root}/src", None),
    "a link with an absolute name out": ("way", "{outside}"),
    "a link with dot dot out": ("way", "../../secret"),
    "a link out with more behind it": ("way/keys", "../../secret"),
    "an absolute link that leads back in": ("way", "{root}/src"),
    "a chain of links": ("way", "step"),
    "out and in again": ("way", "../myapp/src"),
    "a magic link": ("way", "/proc/self/root"),
}


@pytest.mark.parametrize("kind", LEADS_OUT)
def test_7_what_leads_out_does_not_open(tree: Path, tmp_path: Path, kind: str) -> None:
    relative, target = LEADS_OUT[kind]
    places = {"root": tree, "outside": tmp_path / "secret"}
    (tree / "step").symlink_to("../../secret")
    if target is not None:
        (tree / "way").symlink_to(target.format(**places))
    with rooted(tree) as root, pytest.raises(OSError, match="Errno") as refused:
        open_beneath(root, relative.format(**places))
    assert refused.value.errno in {errno.EXDEV, errno.ELOOP}


@pytest.mark.parametrize(
    ("relative", "code"),
    [
        ("nowhere", errno.ENOENT),
        ("file", errno.ENOTDIR),
        ("src\0/../..", errno.EINVAL),
        ("loop", errno.ELOOP),
    ],
)
def test_what_is_no_directory_does_not_open(tree: Path, relative: str, code: int) -> None:
    (tree / "loop").symlink_to("loop")
    with rooted(tree) as root, pytest.raises(OSError, match="Errno") as refused:
        open_beneath(root, relative)
    assert refused.value.errno == code


def test_a_root_is_named_whole_and_without_links(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "srv")
    for path in ("srv/myapp", f"{tmp_path}/link/myapp", f"{tmp_path}/link", "/proc/self/root"):
        with pytest.raises(OSError, match="Errno"):
            open_root(path)
    with rooted(tree) as root:
        assert identity(root) == of(tree)


def test_a_root_is_the_directory_that_was_there_when_it_was_opened(tree: Path) -> None:
    with rooted(tree) as root:
        before = of(tree / "src")
        tree.rename(tree.with_name("old"))
        (tree / "src").mkdir(parents=True)
        assert opened(root, "src") == before != of(tree / "src")


def test_8_what_was_judged_opens_again_and_nothing_else_in_its_place(tree: Path) -> None:
    judged = (str(tree), "src", *of(tree / "src"))
    fd = open_judged(judged)
    try:
        assert identity(fd) == of(tree / "src")
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    count = open_files()
    (tree / "src").rename(tree / "moved")
    (tree / "src").symlink_to("releases/1")
    with pytest.raises(OSError, match="Errno") as refused:
        open_judged(judged)
    assert refused.value.errno == errno.ESTALE
    assert open_files() == count, "a descriptor was left open"


PARTS = st.sampled_from(
    ["", ".", "..", "src", "current", "releases", "1", "out", "up", "/", "\0", "proc", "self"]
)


@settings(max_examples=500, deadline=None)
@given(parts=st.lists(PARTS, max_size=8))
def test_7_whatever_is_asked_for_nothing_outside_opens(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    base = tmp_path_factory.getbasetemp() / "property"
    root = base / "root"
    if not root.exists():
        (root / "releases" / "1").mkdir(parents=True)
        (root / "src").mkdir()
        (root / "current").symlink_to("releases/1")
        (root / "out").symlink_to("/")
        (root / "up").symlink_to("..")
    inside = {of(path) for path in (root, *root.glob("**/")) if not path.is_symlink()}
    with rooted(root) as fd, suppress(OSError):
        assert opened(fd, "/".join(parts)) in inside


def _swap_for_ever(root: str, outside: str, started: Event) -> None:
    """Swap a link's end, and a directory with a link that leads out, as fast as it goes."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(root)
    place, trap, link, other = b"way", b"trap", b"hop", b"hop2"
    for name, target in ((trap, outside), (link, "inside"), (other, outside)):
        Path(os.fsdecode(name)).symlink_to(target)
    while True:
        libc.renameat2(-100, place, -100, trap, RENAME_EXCHANGE)
        libc.renameat2(-100, link, -100, other, RENAME_EXCHANGE)
        started.set()


@contextmanager
def swapping(root: Path, outside: Path) -> Generator[None]:
    """Let another process swap names below the root meanwhile."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(
        target=_swap_for_ever, args=(str(root), str(outside), started), daemon=True
    )
    process.start()
    try:
        assert started.wait(STARTED_LIMIT_S)
        yield
    finally:
        process.kill()
        process.join(STARTED_LIMIT_S)


def escapes(attempt: Callable[[str], int], inside: set[tuple[int, int]], tries: int) -> int:
    """Return how often something outside was opened."""
    found = 0
    for number in range(tries):
        try:
            fd = attempt("way/deep" if number % 2 else "hop/deep")
        except OSError:
            continue
        found += identity(fd) not in inside
        os.close(fd)
    return found


@pytest.fixture
def racing(tmp_path: Path) -> tuple[Path, Path, set[tuple[int, int]]]:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for place in (root / "way", root / "inside", outside):
        (place / "deep").mkdir(parents=True)
    return root, outside, {of(root / "way" / "deep"), of(root / "inside" / "deep")}


@pytest.mark.timeout(1800)
def test_8_names_that_are_swapped_meanwhile_never_lead_out(
    racing: tuple[Path, Path, set[tuple[int, int]]],
) -> None:
    root, outside, inside = racing
    with rooted(root) as fd, swapping(root, outside):
        found = escapes(lambda relative: open_beneath(fd, relative), inside, RACE_TRIES)
    print(f"{RACE_TRIES} tries, {found} escapes")
    assert found == 0


def test_8_the_race_is_one_that_a_check_by_name_loses(
    racing: tuple[Path, Path, set[tuple[int, int]]],
) -> None:
    root, outside, inside = racing

    def checked_by_name(relative: str) -> int:
        path = f"{root}/{relative}"
        if not os.path.realpath(path).startswith(f"{root}/"):
            raise OSError(errno.EXDEV, "leads out")
        return os.open(path, os.O_PATH | os.O_DIRECTORY)

    with swapping(root, outside):
        assert any(escapes(checked_by_name, inside, 1000) for _ in range(100))
