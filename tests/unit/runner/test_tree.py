"""The copy of a directory and how it differs later, without the sandbox that is round it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.runner import tree
from tests.system.runner.copying import commit, git

Order = dict[str, Any]


@pytest.fixture
def order(tmp_path: Path) -> Order:
    base = Path(os.path.realpath(tmp_path))
    for name in ("source", "copy", "home", "tmp"):
        (base / name).mkdir()
    (base / "source" / "note").write_text("one\n")
    return {
        "program": "/usr/bin/git",
        "objects": "",
        "bytes": 1_000_000,
        "files": 100,
        "limit": 100_000,
        "patch": f"{base}/patch",
        "base": f"{base}/base",
        **{name: f"{base}/{name}" for name in ("source", "copy", "home", "tmp")},
    }


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
