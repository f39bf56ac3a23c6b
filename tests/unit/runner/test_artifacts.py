"""Globs of a task's files, and what is read of a tree that somebody else wrote."""

import itertools
import os
import resource
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from cmesh.beneath import open_root
from cmesh.errors import UsageError
from cmesh.redact import Redactor
from cmesh.runner import artifacts
from cmesh.runner.artifacts import ARTIFACTS_MOST, Taken, asked, check_globs, find, take
from cmesh.runner.task_files import delete_tree
from cmesh.text import is_plain_path

FILES = ["a.whl", "dist/b.whl", "dist/x/c.whl", "dist/x/y/d.txt", ".e.whl", "dist/.f/g.whl"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "tree"
    for name in [*FILES, ".git/config", "sub/.git/config"]:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return place


def found(tree: Path, *globs: str) -> list[str]:
    root = open_root(str(tree))
    try:
        return find(root, globs)[0]
    finally:
        os.close(root)


def taken(tree: Path, names: list[str], into: Path) -> list[Taken]:
    root = open_root(str(tree))
    try:
        return list(take(root, names, into, Redactor()))
    finally:
        os.close(root)


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.whl", ["a.whl"]),
        ("dist/*.whl", ["dist/b.whl"]),
        ("**/*.whl", ["a.whl", "dist/b.whl", "dist/x/c.whl"]),
        ("dist/**", ["dist/b.whl", "dist/x/c.whl", "dist/x/y/d.txt"]),
        ("dist/**/d.txt", ["dist/x/y/d.txt"]),
        ("**/x/**/*.txt", ["dist/x/y/d.txt"]),
        (".e.whl", [".e.whl"]),
        ("dist/.f/*", ["dist/.f/g.whl"]),
        ("dist", []),
        ("DIST/*", []),
        ("nothing/*", []),
        (".*/*", []),
    ],
)
def test_a_glob_means_files_below_and_hidden_ones_by_name_alone(
    tree: Path, glob: str, names: list[str]
) -> None:
    assert found(tree, glob) == names
    assert found(tree, glob, glob) == names


def test_no_link_pipe_or_folder_is_a_file_and_none_is_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    (tree / "out").symlink_to(outside)
    (tree / "secret").symlink_to(outside / "secret")
    os.mkfifo(tree / "pipe")
    assert found(tree, "out/*", "secret", "pipe", "out") == []
    # Put there between the look and the reading.
    withheld = taken(tree, ["secret", "out/secret", "pipe", "gone", "dist"], tmp_path)
    assert {one.withheld for one in withheld} == {"artifact_unreadable"}
    assert not any(one.file for one in withheld)


def test_many_and_odd_names_are_counted_and_not_told(tree: Path) -> None:
    (tree / "many").mkdir()
    for number in range(ARTIFACTS_MOST + 3):
        (tree / f"many/{number:03}").touch()
    for name in ("a\nb", "\u202eexe", "x" * 250 + "\udcff"):
        (tree / "many" / name).touch()
    root = open_root(str(tree))
    try:
        names, left_out = find(root, ["many/*"])
    finally:
        os.close(root)
    assert (len(names), left_out) == (ARTIFACTS_MOST, 6)
    assert names[0] == "many/000"


def test_a_file_with_a_secret_or_beyond_the_room_is_named_without_its_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "ARTIFACTS_BYTES", 100)
    (tree / "a").write_bytes(b"\x00\xff" * 20)
    (tree / "b").write_bytes(b"y" * 61)
    (tree / "c").write_text("ghp_" + "x1Y2" * 9)
    (tree / "d").write_bytes(b"")
    told = {one.path: one for one in taken(tree, ["a", "b", "c", "d"], tmp_path)}
    assert {name: one.withheld for name, one in told.items()} == {
        "a": "",
        "b": "artifact_too_large",
        "c": "secret_found",
        "d": "",
    }
    assert told["b"].bytes == 61
    assert told["a"].file is not None
    assert told["a"].file.read_bytes() == b"\x00\xff" * 20


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        ".",
        "a/.git/b",
        ".GIT",
        "a\nb",
        "a\x1b[1m",
        "\u202e",
    ],
)
def test_a_path_that_leads_elsewhere_or_looks_otherwise_is_no_plain_one(path: str) -> None:
    assert not is_plain_path(path)
    with pytest.raises(UsageError):
        check_globs([path])


def test_plain_paths_and_few_globs_are_taken() -> None:
    assert is_plain_path("dist/ä b.whl")
    check_globs(["dist/*.whl", "**/*.txt"])
    with pytest.raises(UsageError, match="at most"):
        check_globs(["a"] * 17)


def nested(place: Path, levels: int) -> None:
    """Make folders in one another, deeper than a path can name."""
    at = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=at)
        below = os.open("a", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("x", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, dir_fd=at))
    os.close(at)


def test_folders_without_end_are_left_out_and_hold_no_descriptors(
    tree: Path,
) -> None:
    nested(tree, 1_500)
    (tree / "a/x").write_text("x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    root = open_root(str(tree))
    resource.setrlimit(resource.RLIMIT_NOFILE, (root + 16, hard))
    try:
        assert find(root, ["**/x"]) == (["a/x"], 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(root)
        delete_tree(tree)  # what clears up after tests goes no deeper than it can call


def test_globs_and_names_made_for_each_other_are_given_up(tree: Path) -> None:
    nested(tree, 40)
    deep = tree / "/".join(["a"] * 40)
    for number in range(300):
        (deep / f"f{number}").touch()
    globs = ["/".join(["**", "a"] * 33) + "/**/b"] * 16
    wanted = artifacts.Wanted(globs)
    states = wanted.begin()
    for _ in range(40):
        states = wanted.after(states, "a")
    assert wanted.steps == 40  # else a step for each name above or each glob, at each name
    root = open_root(str(tree))
    try:
        assert find(root, globs) == ([], 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(artifacts, "STEPS_MOST", 100)
            assert find(root, globs)[1] == 1
    finally:
        os.close(root)


GLOBS = ["/".join(["**/*"] * 31) + f"/{'x' * number}" for number in range(1, 17)]
"""Every folder is at every `**` at once: as much as globs of 200 characters can ask for."""


def test_globs_and_paths_made_for_each_other_take_few_steps() -> None:
    paths = [f"{number}/" + "a/b/" * 30 + "x" for number in range(64)]
    check_globs(GLOBS)
    wanted, states = artifacts.Wanted(GLOBS), 0
    for path in paths:
        states = wanted.begin()
        for name in path.split("/"):
            states = wanted.after(states, name)
    assert wanted.ends(states)
    # Two for each name: itself, and the one different part that is next and no plain name.
    assert wanted.steps == 64 * 62 * 2
    assert asked(GLOBS, paths) == (frozenset(paths), True)
    assert asked(GLOBS, [path[:-1] + "y" for path in paths]) == (frozenset(), True)


def test_what_would_take_too_long_to_compare_is_not_meant() -> None:
    kinds = map(chr, range(0x4E00, 0x4E00 + 400))
    globs = ["/".join(f"**/[!{next(kinds)}]" for _ in range(25)) for _ in range(16)]
    paths = [f"{number}/" + "a/" * 150 + "x" for number in range(64)]
    check_globs(globs)
    meant, compared = asked(globs, paths)
    assert not compared
    assert len(meant) < len(paths)


def meant_by(parts: Sequence[str], names: Sequence[str]) -> bool:
    """Say what a glob means by what the words say, however long it takes."""
    if not parts or not names:
        return not names and all(part == "**" for part in parts)
    first, hidden = parts[0], names[0].startswith(".")
    if first == "**":
        return meant_by(parts[1:], names) or (not hidden and meant_by(parts, names[1:]))
    fits = fnmatchcase(names[0], first) and (first.startswith(".") or not hidden)
    return fits and meant_by(parts[1:], names[1:])


def test_a_path_is_meant_as_the_rules_say() -> None:
    parts, names = ["**", "*", "a", ".*", "[ab]", "?b"], ["a", ".a", "ab", "**", "[ab]"]
    globs = [tuple(one) for size in (1, 2, 3) for one in itertools.product(parts, repeat=size)]
    paths = [tuple(one) for size in (1, 2, 3) for one in itertools.product(names, repeat=size)]
    for glob in globs:
        expected = {"/".join(path) for path in paths if meant_by(glob, path)}
        found, _ = asked(["/".join(glob)], ["/".join(path) for path in paths])
        assert found == expected, glob
