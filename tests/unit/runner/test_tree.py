"""The copy of a directory and how it differs later, without the sandbox that is round it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.runner import tree
from cmesh.runner.task_files import delete_tree
from cmesh.runner.tree_git import Git
from cmesh.runner.tree_names import FOLDERS_MOST, IGNORE_BYTES, Names
from tests.system.runner.copying import commit, git

Order = dict[str, Any]


@pytest.fixture
def order(tmp_path: Path) -> Iterator[Order]:
    base = Path(os.path.realpath(tmp_path))
    for name in ("source", "copy", "home", "tmp"):
        (base / name).mkdir()
    (base / "source" / "note").write_text("one\n")
    yield {
        "program": "/usr/bin/git",
        "objects": "",
        "bytes": 1_000_000,
        "files": 100,
        "limit": 100_000,
        "file_bytes": 50_000,
        "parts": [],
        "wanted": [],
        "patch": f"{base}/patch",
        "base": f"{base}/base",
        **{name: f"{base}/{name}" for name in ("source", "copy", "home", "tmp")},
    }
    for name in ("source", "copy"):
        delete_tree(base / name)  # pytest could not: some are too deep
        assert not (base / name).exists()


def run(order: Order, what: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run one step; return its answer, or what it said under `error`."""
    status = tree.main(json.dumps({**order, "do": what}))
    out, err = capsys.readouterr()
    return {"error": err} if status else cast("dict[str, Any]", json.loads(out))


def repository(order: Order) -> str:
    order["objects"] = f"{order['source']}/.git/objects"
    return commit(Path(order["source"]))


@pytest.mark.parametrize(
    ("limit", "said"), [({"bytes": 3}, "more than the 3 bytes"), ({"files": 0}, "more than the 0")]
)
def test_a_directory_above_a_limit_is_not_copied(
    order: Order, limit: Mapping[str, int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in run({**order, **limit}, "make", capsys)["error"]


def test_a_patch_above_its_limit_is_counted_and_not_kept(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    run(order, "make", capsys)
    (Path(order["copy"]) / "long").write_text("x\n" * 1_000)
    found = run({**order, "limit": 500}, "compare", capsys)
    assert found["bytes"] > 500
    assert Path(order["patch"]).stat().st_size == 0


def test_modes_links_and_uncommitted_files_are_copied(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    head, source, copy = repository(order), Path(order["source"]), Path(order["copy"])
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("/nowhere")
    (source / "note").unlink()
    made = run(order, "make", capsys)
    assert (made["commit"], made["dirty"], made["files"]) == (head, True, 2)
    assert os.access(copy / "run", os.X_OK)
    assert (copy / "link").readlink() == Path("/nowhere")
    assert git(copy, "status", "--porcelain") == "D note\n?? link\n?? run"
    assert git(copy, "symbolic-ref", "HEAD") == "refs/heads/main"
    assert run(order, "compare", capsys)["files"] == 0
    (copy / "run").chmod(0o644)
    Path(order["patch"]).unlink()
    assert run(order, "compare", capsys)["changed"] == ["M run"]


@pytest.mark.parametrize("looks", [1, 2])
def test_a_folder_that_becomes_a_link_meanwhile_leads_to_nothing_that_is_not_listed(
    order: Order, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    source, copy = Path(order["source"]), Path(order["copy"])
    for folder in ("docs", "private"):
        (source / folder / "api").mkdir(parents=True)
        (source / folder / "api" / "key").write_text(folder)
        (source / folder / "api" / "link").symlink_to(folder)
        os.mkfifo(source / folder / "api" / f"of-{folder}")
    order["parts"] = order["wanted"] = ["docs/api"]
    seen: list[str] = []
    whole = tree.Tree.look

    def swap() -> None:
        if not (source / "docs").is_symlink():
            (source / "docs").rename(source / "moved")
            (source / "docs").symlink_to("private")

    def look(self: tree.Tree, names: Iterable[str], known: Mapping[str, tuple[str, str]]) -> None:
        whole(self, names, known)
        seen.append(self.root)
        swap()  # listed, and not yet copied

    def reading(_self: Names, folder: str) -> None:
        if folder == "docs":
            swap()  # named, and not yet listed

    if looks == 1:
        monkeypatch.setattr(Names, "_read_ignores", reading)
    else:
        monkeypatch.setattr(tree.Tree, "look", look)
    made = run(order, "make", capsys)
    assert "private" not in json.dumps(made)
    assert not [one for one in copy.rglob("*") if one.is_symlink() or one.is_file()]
    assert len(seen) == 2 * (looks - 1)


def test_a_failure_names_no_path_where_parts_are_listed(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(order["base"]).touch()
    assert run(order, "make", capsys)["error"] == f"File exists: `{order['base']}`\n"
    assert run({**order, "wanted": ["note"]}, "make", capsys)["error"] == "File exists\n"


def test_a_clean_tree_is_its_commit_and_a_branch_without_one_has_none(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    head = repository(order)
    git(Path(order["source"]), "checkout", "-q", "--detach")
    made = run(order, "make", capsys)
    assert (made["commit"], made["dirty"]) == (head, False)
    assert git(Path(order["copy"]), "rev-parse", "HEAD") == head
    assert made["tree"] == git(Path(order["source"]), "rev-parse", "HEAD^{tree}")


def test_a_repository_without_a_commit_is_copied_as_new_files(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(order["source"])
    git(source, "init", "--quiet", "--initial-branch=trunk")
    order["objects"] = f"{source}/.git/objects"
    made = run(order, "make", capsys)
    assert (made["commit"], made["dirty"], made["files"]) == ("", False, 1)
    assert git(Path(order["copy"]), "symbolic-ref", "HEAD") == "refs/heads/trunk"


def test_a_repository_with_longer_hashes_keeps_them(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(order["source"])
    git(source, "init", "--quiet", "--object-format=sha256")
    head = repository(order)
    assert len(head) == 64
    assert run(order, "make", capsys)["commit"] == head


def test_a_repository_that_borrows_objects_is_refused(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(order)
    Path(order["objects"], "info", "alternates").write_text("/elsewhere\n")
    assert "borrows objects" in run(order, "make", capsys)["error"]


def test_a_submodule_stays_the_commit_it_was(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(order["source"])
    inner = source / "inner"
    inner.mkdir()
    (inner / "file").write_text("x\n")
    commit(inner)
    repository(order)
    made = run(order, "make", capsys)
    assert (made["dirty"], made["left_out"]) == (False, ["inner"])
    (Path(order["copy"]) / "inner" / "file").write_text("by a task\n")
    found = run(order, "compare", capsys)
    assert (found["files"], found["left_out"]) == (0, ["inner"])


def test_a_name_that_ends_with_a_carriage_return_is_no_other_file(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(order["source"]) / "note\r").write_text("old words\n")
    run(order, "make", capsys)
    copy, outside = Path(order["copy"]), Path(order["home"]) / "outside"
    outside.write_text("not in the copy\n")
    (copy / "note").unlink()
    (copy / "note").symlink_to(outside)
    (copy / "note\r").write_text("new words\n")
    assert run(order, "compare", capsys)["changed"] == ["T note", "M note\r"]
    patch = Path(order["patch"]).read_text()
    assert "-old words" in patch
    assert "+new words" in patch
    assert "not in the copy" not in patch


@pytest.mark.parametrize(
    ("name", "flagged"),
    [
        ("a/.claude/x", True),
        ("sub/Makefile", True),
        ("CLAUDE.md", True),
        ("AGENTS.override.md", True),
        (".cargo/config.toml", True),
        ("lib/start.pth", True),
        ("src/main.py", False),
    ],
)
def test_files_that_run_or_instruct_by_being_there_are_flagged(
    order: Order, name: str, flagged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run(order, "make", capsys)
    place = Path(order["copy"]) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("x\n")
    found = run(order, "compare", capsys)
    assert (found["flagged"], found["flagged_count"]) == ([name] if flagged else [], int(flagged))


IGNORES = {
    ".gitignore": "*.o\n!keep.o\nbuild/\n/top\ndocs/**/tmp\n\\!odd\n# not\ntrail\\ \n",
    "sub/.gitignore": "*\n!*/\n!*.c\n",
    "sub/deep/.gitignore": "!x.o\nlocal\n",
    "build/.gitignore": "!kept\n",
    "closed/.gitignore": "/*\n!.gitignore\n",
}
PLAIN = (
    "a.o", "keep.o", "build/kept", "top", "in/top", "docs/a/b/tmp/x", "docs/a/tmp2", "!odd", ":(top)x",
    ":x.o", "trail ", "trail", "sub/y.c", "sub/z.h", "sub/deep/x.o", "sub/deep/local", "sub/deep/w.c",
    "closed/file", "-option", "a*", "[a]", "new\nline", 'quo"te', "back\\slash", "in/build", "x/.GIT/y",
)  # fmt: skip


def test_the_names_are_those_that_git_finds(order: Order) -> None:
    source = Path(order["source"])
    for name in (*IGNORES, *PLAIN):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(IGNORES.get(name, "x"))
    (source / "link").symlink_to("sub")
    for name in ("inner", "ignored.o"):
        (source / name).mkdir()
        (source / name / "file").write_text("x")
        commit(source / name)
    (source / "junk" / ".git").mkdir(parents=True)
    (source / "junk" / "file").write_text("x")
    git(source, "init", "--quiet")
    (source / ".git" / "info").mkdir(exist_ok=True)
    (source / ".git" / "info" / "exclude").write_text("in/top\n")
    theirs = git(source, "ls-files", "--others", "--exclude-standard", "-z").split("\0")[:-1]
    asked = Git(order, f"{source}/.git")
    found = Names(asked, str(source), f"{order['tmp']}/names", {}).find()
    assert sorted(found.taken) == sorted(theirs)
    assert "sub/deep/w.c" in found.taken
    assert found.left_out == ["junk/.git"]


PIPES = (
    ".gitignore", ".gitattributes", ".gitmodules", "sub/.gitignore", "sub/pipe", "sub/.git",
    "inner/.git/HEAD", "inner/.git/config", "inner/.git/packed-refs", "half/.git/commondir",
)  # fmt: skip


def plant(place: Path) -> None:
    for folder in ("sub", "inner/.git/objects", "inner/.git/refs", "half/.git"):
        (place / folder).mkdir(parents=True)
    for name in PIPES:
        os.mkfifo(place / name)
    (place / "half" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")


def test_a_pipe_by_whatever_name_holds_nobody_up_and_is_counted(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(order)
    source, copy = Path(order["source"]), Path(order["copy"])
    (source / "kept").write_text("x\n")
    plant(source)
    left_out = {*PIPES[:6], "inner/", "half/"}
    made = run(order, "make", capsys)
    assert (made["files"], set(made["left_out"]), made["left_out_count"]) == (2, left_out, 8)
    plant(copy)
    (copy / "note").unlink()
    os.mkfifo(copy / "note")
    (copy / "kept").write_text("y\n")
    found = run(order, "compare", capsys)
    assert found["changed"] == ["M kept"]
    assert (set(found["left_out"]), found["left_out_count"]) == ({*left_out, "note"}, 9)


@pytest.mark.parametrize("name", ["HEAD", "config", "info/exclude", "objects/pack/pack-x.idx"])
def test_a_source_whose_own_repository_has_a_pipe_is_refused(
    order: Order, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(order)
    place = Path(order["source"], ".git", name)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place)
    said = run(order, "make", capsys)["error"]
    assert "no file" in said
    assert place.name in said


def test_the_settings_of_a_source_are_not_read(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    head = repository(order)
    pipe = Path(order["home"]) / "pipe"
    os.mkfifo(pipe)
    git(Path(order["source"]), "config", "include.path", str(pipe))
    assert run(order, "make", capsys)["commit"] == head


def test_an_ignore_file_that_cannot_be_read_hides_all_that_it_may_have_named(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(order["source"])
    (source / "sub").mkdir()
    (source / "sub" / ".gitignore").write_text("x" * (IGNORE_BYTES + 1))
    (source / "sub" / "key").write_text("x")
    made = run(order, "make", capsys)
    assert (made["files"], made["left_out"]) == (1, ["sub/"])


NO_NAMES = (".GIT/x", "git~1", "sub/.g\u200cit", "sub/.gi\u200ct/x")


def test_names_that_git_takes_for_its_own_are_counted(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    run(order, "make", capsys)
    copy = Path(order["copy"])
    for name in (*NO_NAMES, "plain"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x\n")
    found = run(order, "compare", capsys)
    assert found["changed"] == ["A plain"]
    assert (sorted(found["left_out"]), found["left_out_count"]) == (sorted(NO_NAMES), 4)


def deepen(place: Path, folders: int) -> None:
    """Make folders in folders, and a file in the last one."""
    fd = os.open(place, os.O_RDONLY)
    for _ in range(folders):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


def test_what_is_too_deep_or_long_is_counted_and_the_rest_is_there(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    source, copy = Path(order["source"]), Path(order["copy"])
    repository(order)
    deepen(source, 1_500)
    made = run(order, "make", capsys)
    deepest = "/".join(["d"] * FOLDERS_MOST)
    assert (made["files"], made["left_out_count"]) == (1, 1)
    assert f"{deepest}/d/".startswith(made["left_out"][0])
    (copy / "note").write_text("two\n")
    deepen(copy, 1_500)
    long = copy / "l"
    for _ in range(14):
        long = long / ("n" * 200)
    long.mkdir(parents=True)
    (long / ("n" * 200)).write_text("x")
    (long / "kept").write_text("x")
    found = run(order, "compare", capsys)
    assert (found["files"], found["left_out_count"]) == (2, 2)


def test_files_that_are_too_much_to_read_are_left_out_and_the_rest_is_there(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    source, copy = Path(order["source"]), Path(order["copy"])
    for name, size in (("asset", 60_000), ("grown", 1)):
        (source / name).write_bytes(b"x" * size)
    run(order, "make", capsys)
    for name in ("new", "grown"):
        (copy / name).touch()
        os.truncate(copy / name, 1 << 40)
    (copy / "asset").write_bytes(b"y" * 60_000)
    (copy / "note").write_text("two\n")
    found = run(order, "compare", capsys)
    assert (found["changed"], sorted(found["left_out"])) == (["M note"], ["asset", "grown", "new"])


def test_a_folder_in_the_place_of_a_file_is_that_and_not_left_out(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    run(order, "make", capsys)
    note = Path(order["copy"]) / "note"
    note.unlink()
    note.mkdir()
    (note / "inner").write_text("x\n")
    found = run(order, "compare", capsys)
    assert (found["changed"], found["left_out"]) == (["D note", "A note/inner"], [])


def test_patterns_of_any_length_cost_neither_memory_nor_minutes(
    order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(order)
    source = Path(order["source"])
    (source / ".gitignore").write_text(f"[{'a' * 30_000}]*\n")
    for number in range(1_000):
        (source / f"a{number}").touch()
    assert "patterns that are too long" in run(order, "make", capsys)["error"]


@pytest.mark.parametrize("start", ["head", "working-tree"])
def test_a_copy_of_a_commit_is_that_commit_s_tree_and_keeps_what_the_source_lacks(
    order: Order, capsys: pytest.CaptureFixture[str], start: str
) -> None:
    source, copy = Path(order["source"]), Path(order["copy"])
    repository(order)
    oid = git(source, "rev-parse", "HEAD:note")
    (source / ".git" / "objects" / oid[:2] / oid[2:]).unlink()  # as in a partial clone
    order["from"] = start
    made = run(order, "make", capsys)
    assert made["tree"] == git(source, "rev-parse", "HEAD^{tree}")
    assert git(copy, "status", "--porcelain") == ""
    unchanged = run(order, "compare", capsys)
    assert (unchanged["tree"], unchanged["files"], unchanged["bytes"]) == (made["tree"], 0, 0)
    Path(order["patch"]).unlink()
    (copy / "note").write_text("two\n")
    assert run(order, "compare", capsys)["changed"] == ["M note"]
    assert "-one\n+two" in Path(order["patch"]).read_text()
