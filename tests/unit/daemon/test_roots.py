"""The roots that rules name, and what is found below them."""

import os
from pathlib import Path

import pytest

from cmesh.beneath import open_judged
from cmesh.daemon.roots import Found, Roots
from tests.unit.policy.support import allow, deny, inbound


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "myapp"
    (root / "releases" / "2").mkdir(parents=True)
    (root / "current").symlink_to("releases/2")
    (tmp_path / "secret").mkdir()
    (root / "out").symlink_to(tmp_path / "secret")
    return root


def roots(*paths: Path) -> Roots:
    return Roots(inbound(allow(paths=tuple(map(str, paths)))))


def same(found: Found, path: Path) -> bool:
    """Say whether what was judged is a directory, by opening it as the launcher does."""
    assert found.judged is not None
    fd = open_judged(found.judged)
    try:
        return os.path.sameopenfile(fd, os.open(path, os.O_PATH))
    finally:
        os.close(fd)


def test_a_link_below_the_root_is_followed_and_judged_by_where_it_leads(root: Path) -> None:
    found = roots(root).find(f"{root}/current")
    assert found.path == f"{root}/releases/2"
    assert found.obstacle is None
    assert same(found, root / "releases" / "2")


def test_the_root_itself_can_be_asked_for_also_through_a_link_to_it(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    for name in (root, f"{root}/", root.parent / "link", f"{root}/releases/.."):
        found = roots(root).find(str(name))
        assert found.path == str(root)
        assert same(found, root)


@pytest.mark.parametrize("name", ["out", "..", "../secret", "current/../../../secret"])
def test_what_leads_out_has_the_name_of_where_it_leads_and_is_not_opened(
    root: Path, name: str
) -> None:
    found = roots(root).find(f"{root}/{name}")
    assert found.judged is None
    assert found.path in {str(root.parent), f"{root.parent}/secret"}


@pytest.mark.parametrize("name", ["", ".", "myapp", "../x", "/a\0b", "~"])
def test_what_is_no_absolute_path_is_left_for_policy_to_refuse(root: Path, name: str) -> None:
    assert roots(root).find(name) == Found(path=name)


def test_what_is_not_there_or_no_directory_is_an_obstacle_named_as_it_was_asked(
    root: Path,
) -> None:
    (root / "file").write_text("x", "utf-8")
    for name in (f"{root}/nowhere", f"{root}/file", f"{root}/current/nowhere"):
        found = roots(root).find(name)
        assert found.judged is None
        assert found.obstacle is not None
        assert found.obstacle.message == f"`{name}` is no directory on the worker"


def test_the_innermost_root_is_the_one_that_is_held(root: Path) -> None:
    found = roots(root.parent, root, root / "releases").find(f"{root}/current")
    assert found.judged is not None
    assert found.judged[:2] == (f"{root}/releases", "2")


def test_directories_of_deny_rules_are_no_roots(root: Path) -> None:
    held = Roots(inbound(deny(paths=(str(root),))))
    assert held.find(str(root)) == Found(path=str(root))


def test_a_root_that_was_moved_away_is_refused_until_the_rules_are_read_again(root: Path) -> None:
    held = roots(root)
    root.rename(root.with_name("old"))
    assert held.find(f"{root}/releases").judged is None
    (root / "releases").mkdir(parents=True)
    found = held.find(f"{root}/releases")
    assert found.judged is None
    assert found.obstacle is not None
    assert "since" in found.obstacle.message or "when" in found.obstacle.message
    assert "touch config.toml" in found.obstacle.hint
    held.read(inbound(allow(paths=(str(root),))))
    assert same(held.find(f"{root}/releases"), root / "releases")


def test_a_root_that_was_missing_or_deleted_is_looked_for_again(tmp_path: Path) -> None:
    place = tmp_path / "later"
    held = roots(place)
    assert held.find(str(place)).obstacle is not None
    for _ in range(2):
        place.mkdir()
        assert same(held.find(str(place)), place)
        place.rmdir()
        assert held.find(str(place)).judged is None


def test_a_root_whose_name_became_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    (root / "releases" / "2").rmdir()
    (root / "releases" / "2").symlink_to(tmp_path / "secret")
    held = roots(root / "releases" / "2")
    assert held.find(str(root / "releases" / "2")).judged is None


def test_roots_that_are_let_go_are_closed(root: Path) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    held = roots(root, root / "releases")
    for _ in range(3):
        held.read(inbound(allow(paths=(str(root),))))
        held.find(str(root))
    held.read(inbound())
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
