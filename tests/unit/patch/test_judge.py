"""What a patch may do to a tree: names, kinds, links, and the states of a tree it may meet."""

import pytest

from cmesh.patch.judge import (
    Change,
    Entry,
    blocking,
    change_trouble,
    collisions,
    dirty,
    flagged,
    name_trouble,
)

FILE: Entry = ("100644", "a" * 40)
OTHER: Entry = ("100644", "b" * 40)
PROGRAM: Entry = ("100755", "a" * 40)
LINK: Entry = ("120000", "c" * 40)
REPOSITORY: Entry = ("160000", "d" * 40)


def added(name: str, entry: Entry = FILE, target: str = "") -> Change:
    return Change(name=name, before=None, after=entry, target=target)


@pytest.mark.parametrize(
    "name",
    ["code", "a/b/c", ".gitignore", ".github/workflows/x.yml", "dir.git/x", "a..b", "...", "git~2",
     "näme", "with space", "-option", "new\nline"],
)  # fmt: skip
def test_ordinary_names_are_no_trouble(name: str) -> None:
    assert name_trouble(name) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("../outside", "stay"),
        ("a/../../outside", "stay"),
        ("a//b", "stay"),
        ("a/", "stay"),
        ("./a", "stay"),
        ("", "no name"),
        ("a\0b", "no name"),
        ("a\\..\\b", "backslash"),
        (".git/hooks/pre-commit", "git"),
        ("sub/.git/config", "git"),
        (".GIT/config", "git"),
        (".git", "git"),
        ("git~1/config", "git"),
        ("GIT~1/config", "git"),
        (".git. /config", "git"),
        (".git::$INDEX_ALLOCATION/config", "git"),
        (".g\u200cit/config", "git"),
        ("\ufeff.git/config", "git"),
        ("x" * 4000, "long"),
        ("/".join("d" * 300), "long"),
    ],
)
def test_names_that_no_patch_may_have(name: str, why: str) -> None:
    assert why in name_trouble(name)


@pytest.mark.parametrize("target", ["code", "./code", "../code", "other/file", "a/./b"])
def test_a_link_within_the_tree_is_no_trouble(target: str) -> None:
    assert change_trouble(added("sub/link", LINK, target)) == ""


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("../../outside", "out of the tree"),
        ("..//../outside", "out of the tree"),
        ("other/../../outside", "out of the tree"),
        ("here/..", "out of the tree"),
        ("../.git/config", "git's own"),
        ("../.GIT/hooks", "git's own"),
        ("", "plain"),
        ("a\\b", "plain"),
    ],
)
def test_links_that_no_patch_may_make(target: str, why: str) -> None:
    assert why in change_trouble(added("sub/link", LINK, target))


def test_a_link_may_go_away_wherever_it_leads() -> None:
    assert change_trouble(Change(name="link", before=LINK, after=None)) == ""


@pytest.mark.parametrize(
    "change",
    [
        added("sub", REPOSITORY),
        Change(name="sub", before=REPOSITORY, after=None),
        added("odd", ("040000", "a" * 40)),
        added("odd", ("100664", "a" * 40)),
    ],
)
def test_other_repositories_and_odd_kinds_are_refused(change: Change) -> None:
    assert change_trouble(change) != ""


def test_a_name_that_is_a_file_and_a_folder_is_found() -> None:
    assert blocking([added("a"), added("a/b/c"), added("d/e")]) == ["a", "a/b/c"]
    assert blocking([Change(name="a", before=FILE, after=None), added("a/b")]) == []


def test_a_tracked_name_may_be_no_folder_of_a_new_one_nor_the_other_way_round() -> None:
    assert blocking([added("link/evil")], ["link", "code"]) == ["link/evil"]
    assert blocking([added("sub")], ["sub/note"]) == ["sub"]
    assert blocking([Change(name="link", before=LINK, after=None), added("link/x")], ["link"]) == []
    assert blocking([added("sub/new")], ["sub/note", "code"]) == []


def test_names_that_some_systems_take_for_one_are_told() -> None:
    assert collisions([added("readme")], ["README", "code"]) == ["readme (like README)"]
    assert collisions([added("Src/new")], ["src/old"]) == ["Src/new (like src)"]
    assert collisions([added("a"), added("A")], []) == ["A (like a)"]
    assert collisions([added("caf\u0065\u0301")], ["caf\u00e9"]) != []
    assert collisions([added("src/new"), added("other")], ["src/old"]) == []
    renamed = [Change(name="README", before=FILE, after=None), added("readme")]
    assert collisions(renamed, ["README"]) == []


def test_what_runs_or_instructs_is_flagged_whatever_the_worker_says() -> None:
    changes = [
        added("code"),
        added("sub/.claude/settings.json"),
        added("Makefile"),
        added("link", LINK, "code"),
        added("tool", PROGRAM),
        Change(name="was", before=PROGRAM, after=PROGRAM),
        Change(name="now", before=FILE, after=PROGRAM),
        Change(name="package.json", before=FILE, after=None),
    ]
    assert flagged(changes) == [
        "sub/.claude/settings.json",
        "Makefile",
        "link -> code",
        "tool",
        "now",
    ]


def test_letters_are_those_of_git() -> None:
    letters = [
        added("a").letter,
        Change(name="a", before=FILE, after=None).letter,
        Change(name="a", before=FILE, after=OTHER).letter,
        Change(name="a", before=FILE, after=PROGRAM).letter,
        Change(name="a", before=FILE, after=LINK).letter,
    ]
    assert letters == ["A", "D", "M", "M", "T"]


def test_uncommitted_changes_are_found_in_the_index_and_in_the_tree() -> None:
    head = {"same": FILE, "edited": FILE, "staged": FILE, "deleted": FILE, "ends": FILE}
    index = {**head, "staged": OTHER, "added": FILE}
    seen = {
        "same": FILE,
        "edited": OTHER,
        "staged": OTHER,
        "deleted": None,
        "ends": OTHER,  # its bytes differ, and git says that it is clean: line ends, a filter
        "added": FILE,
        "untracked": FILE,
        "new": None,
    }
    found = dirty(seen, index, head, {"edited", "deleted", "elsewhere"})
    assert found == ["edited", "staged", "deleted", "added", "untracked"]
