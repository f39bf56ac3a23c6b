"""Where a shim makes a group of its own, and where it stays as it is."""

import os
from pathlib import Path

import pytest

from cmesh.runner import shim_group
from cmesh.runner.shim_group import own_group


class Tree:
    """A tree of control groups as files; `group` is this process's."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
        self.group = base / "fs" / path
        self.group.mkdir(parents=True)
        (base / "fs" / "cgroup.controllers").touch()
        (base / "own").write_text(f"9:name=systemd:/\n0::/{path}\n", "utf-8")
        monkeypatch.setattr(shim_group, "OWN", str(base / "own"))
        monkeypatch.setattr(shim_group, "MOUNTS", (str(base / "none"), str(base / "fs")))


def test_in_a_delegated_group_it_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path, monkeypatch, "app.slice/cmesh.service")
    ended, lives, other = (tree.group / name for name in ("shim-1", "shim-2", "else"))
    for place in (ended, lives, other):
        place.mkdir()
    (lives / "cgroup.procs").touch()
    place = Path(own_group())
    assert place == tree.group / f"shim-{os.getpid()}"
    assert (place / "cgroup.procs").read_text("ascii") == str(os.getpid())
    assert not ended.exists()
    assert lives.exists()
    assert other.exists()


def test_forked_by_another_shim_it_is_beside_it_and_not_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path, monkeypatch, "cmesh.service/shim-7")
    (tree.group / "cgroup.procs").touch()
    assert Path(own_group()).parent == tree.group.parent


@pytest.mark.parametrize(
    "path", ["user.slice/session.scope", "mycmesh.service", "cmesh-1.service", "cmesh.service/x"]
)
def test_a_group_of_others_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    tree = Tree(tmp_path, monkeypatch, path)
    assert own_group() == ""
    assert list(tree.group.iterdir()) == []


def test_without_control_groups_it_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_group, "OWN", str(tmp_path / "none"))
    assert own_group() == ""
