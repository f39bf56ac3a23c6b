"""A task of `edit` under a real shim: it works on a copy, and what differs is the patch."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.errors import PathRefused
from cmesh.model import TaskId
from cmesh.runner.copies import read_changed, read_made
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.copying import commit, edit, git, launch_of
from tests.system.runner.support import Worker, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.system]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    (place / "lib").mkdir(parents=True)
    (place / "note").write_text("a note\n")
    (place / "lib" / "code").write_text("one\ntwo\n")
    (place / ".gitignore").write_text("secret\n")
    (place / "secret").write_text("not for a copy\n")
    return place


async def test_the_patch_is_what_the_task_changed_and_the_source_stays(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    head = commit(place)
    (place / "note").write_text("a note\nof today\n")
    script = "pwd; cat note; echo three >>lib/code; rm note; printf 'a\\0b' >new; cat secret"
    (place / "untracked").touch()
    done = await edit(worker, place, found, f"{script}; ls", base="working-tree")
    assert (done.exit.verdict, done.exit.compared) == ("exited", "yes")
    assert done.output == f"{place}\na note\nof today\nlib\nnew\n"
    made, changed = read_made(done.own), read_changed(done.own)
    assert made is not None
    assert changed is not None
    assert (made.commit, made.dirty, made.files) == (head, True, 3)
    assert changed.changed == ["M lib/code", "A new", "D note"]
    assert changed.bytes == len(done.patch.encode())
    assert (place / "note").read_text() == "a note\nof today\n"
    assert git(place, "status", "--porcelain") == "M note\n?? untracked"
    # What a person does with it.
    (place.parent / "patch").write_bytes((done.own / "git" / "patch").read_bytes())
    git(place, "apply", "../patch")
    assert (place / "lib" / "code").read_text() == "one\ntwo\nthree\n"
    assert (place / "new").read_bytes() == b"a\0b"
    assert not (place / "note").exists()


async def test_a_copy_is_the_commit_and_a_dirty_source_is_told(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    (place / "run").write_text("#!/bin/sh\n")
    (place / "run").chmod(0o755)
    (place / "link").symlink_to("note")
    head = commit(place)
    clean = await edit(worker, place, found, "true")
    made = read_made(clean.own)
    assert made is not None
    assert (made.commit, made.dirty, made.base) == (head, False, "head")
    # Changed, gone, another kind, another mode, new; staged or not.
    (place / "note").write_text("mine\n")
    (place / "lib" / "code").unlink()
    (place / "lib").rmdir()
    (place / "lib").symlink_to("/etc")
    (place / "link").unlink()
    (place / "link").mkdir()
    (place / "link" / "mine").touch()
    (place / "run").chmod(0o644)
    (place / "new").touch()
    git(place, "add", "new")
    script = (
        "git status --porcelain; cat note lib/code link; test -x run && echo runs; echo x >>note"
    )
    done = await edit(worker, place, found, script)
    assert done.output == "a note\none\ntwo\na note\nruns\n", done.exit
    made, changed = read_made(done.own), read_changed(done.own)
    assert made is not None
    assert changed is not None
    assert (made.commit, made.dirty, made.base, made.left_out) == (head, True, "head", [])
    assert made.tree == git(place, "rev-parse", "HEAD^{tree}")
    assert changed.changed == ["M note"]


async def test_a_staged_file_is_tracked_and_changes_are_exact(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    commit(place)
    (place / "staged").write_bytes(b"a\r\n\0")
    git(place, "add", "staged")
    (place / "note").unlink()
    (place / "lib" / "code").chmod(0o755)
    script = "git status --porcelain; od -c staged | head -1; ls"
    done = await edit(worker, place, found, script, base="working-tree")
    assert done.output == (
        " M lib/code\n D note\n?? staged\n0000000   a  \\r  \\n  \\0\nlib\nstaged\n"
    )
    assert done.patch == ""


async def test_a_file_of_git_lfs_is_what_the_pointer_names_and_not_dirty(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    content = b"large\n" * 9
    digest = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 54\n"
    for name in ("there", "absent", "other"):
        (place / name).write_text(pointer)
    head = commit(place)
    (place / "there").write_bytes(content)
    done = await edit(worker, place, found, "head -1 there absent; echo x >>there")
    made = read_made(done.own)
    assert made is not None
    assert (made.commit, made.dirty) == (head, False)
    assert "==> there <==\nlarge\n" in done.output
    assert "==> absent <==\nversion https://git-lfs" in done.output
    assert " large\n+x\n" in done.patch
    (place / "other").write_bytes(b"mine")
    done = await edit(worker, place, found, "cat other")
    made = read_made(done.own)
    assert made is not None
    assert (made.dirty, done.output) == (True, pointer)


async def test_folders_that_git_ignores_are_shown_where_the_rule_lists_them_and_never_written(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    (place / ".gitignore").write_text("secret\nnode_modules\n.venv\n")
    commit(place)
    for name in ("node_modules", "lib/node_modules"):
        (place / name).mkdir()
        (place / name / "dep").write_text("a dependency\n")
    (place / "node_modules" / "out").symlink_to("../secret")
    script = (
        "cat node_modules/dep lib/node_modules/dep node_modules/out; ls -A;"
        " echo x >node_modules/mine; echo x >>node_modules/dep; rm -r node_modules;"
        " echo x >>note"
    )
    binds = ["node_modules", "lib/node_modules", ".venv"]
    done = await edit(worker, place, found, script, binds=binds)
    assert done.output.startswith("a dependency\na dependency\n.git\n.gitignore\nlib\n")
    assert ".venv" not in done.output
    changed = read_changed(done.own)
    assert changed is not None
    assert (changed.changed, changed.left_out) == (["M note"], [])
    assert sorted(path.name for path in (place / "node_modules").iterdir()) == ["dep", "out"]
    assert (place / "node_modules" / "dep").read_text() == "a dependency\n"
    hidden = await edit(worker, place, found, "ls -A lib")
    assert hidden.output == "code\n"


async def test_what_is_no_ignored_folder_is_not_bound(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    commit(place)
    outside = place.parent / "outside"
    outside.mkdir()
    (place / "out").symlink_to(outside)
    for name, why in (("out", "is a link"), ("note", "is a file")):
        with pytest.raises((PathRefused, OSError), match=why):
            await edit(worker, place, found, "true", binds=[name])
    done = await edit(worker, place, found, "echo ran", binds=["lib"])
    assert (done.output, done.exit.verdict) == ("", "spawn_failed")
    assert "not ignored by git" in done.exit.error


async def test_where_only_landlock_holds_it_a_task_works_on_its_copy_all_the_same(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    without = replace(found, bwrap=False, netns=False)
    assert without.tier == 2
    head = commit(place)
    script = "pwd; git log --format=%H; echo three >>lib/code; cat secret; echo x >new"
    done = await edit(worker, place, without, f"{script}; cat {place}/note; echo x >{place}/out")
    assert (done.exit.error, done.exit.compared) == ("", "yes")
    assert done.output == f"{done.own}/copy\n{head}\n"
    assert "+three\n" in done.patch
    assert sorted(path.name for path in place.iterdir()) == [
        ".git",
        ".gitignore",
        "lib",
        "note",
        "secret",
    ]


def instead(
    worker: Worker, place: Path, found: Enforcement, **steps: Mapping[str, object]
) -> TaskId:
    """Prepare a task whose steps are changed as said; return its id."""
    task_id = new_id()
    launch = launch_of(worker, task_id, place, found, "echo ran")
    assert launch.before is not None
    assert launch.after is not None
    before, after = steps.get("before", {}), steps.get("after", {})
    launch = replace(launch, before={**launch.before, **before}, after={**launch.after, **after})
    worker.supervisor.prepare(task_id, launch)
    return task_id


async def test_a_cancel_ends_a_copy_that_is_being_made_and_others_start_meanwhile(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    slow = instead(worker, place, found, before={"argv": ["/bin/sleep", "300"]})
    await worker.supervisor.spawn(slow)
    await worker.eventually(lambda: len(worker.processes(slow)) > 1)
    other = instead(worker, place, found)
    await worker.supervisor.spawn(other)
    assert (await worker.result(other)).verdict == "exited"
    worker.supervisor.end(slow, "cancelled")
    exit_ = await worker.result(slow)
    assert (exit_.verdict, exit_.processes_left, exit_.compared) == ("cancelled", 0, "")
    assert worker.output(slow) == b""
    assert not worker.processes(slow)


async def test_a_cancel_ends_a_comparison_and_is_the_end_of_the_task(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    slow = instead(worker, place, found, after={"argv": ["/bin/sleep", "300"]})
    await worker.supervisor.spawn(slow)
    await worker.eventually((worker.supervisor.directory(slow) / "after").exists)
    worker.supervisor.end(slow, "cancelled")
    exit_ = await worker.result(slow)
    assert (exit_.verdict, exit_.processes_left, exit_.compared) == ("cancelled", 0, "")
    assert worker.output(slow) == b"ran\n"
    assert not worker.processes(slow)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"argv": ["/bin/sleep", "300"], "limit_s": 0.3}, "it took more than 0.3 seconds"),
        ({"argv": ["/bin/sh", "-c", "echo no room >&2; exit 1"]}, "no room"),
    ],
)
async def test_without_a_copy_nothing_starts_and_without_a_patch_the_result_says_why(
    worker: Worker, place: Path, found: Enforcement, step: Mapping[str, object], said: str
) -> None:
    first = instead(worker, place, found, before=step)
    await worker.supervisor.spawn(first)
    exit_ = await worker.result(first)
    assert (exit_.verdict, worker.output(first)) == ("spawn_failed", b"")
    assert exit_.error == f"no copy of its directory could be made: {said}"
    second = instead(worker, place, found, after=step)
    await worker.supervisor.spawn(second)
    exit_ = await worker.result(second)
    assert (exit_.verdict, exit_.exit_code, exit_.compared) == ("exited", 0, said)
    # The first process of its namespace goes with the shim, a moment after the result.
    await worker.eventually(lambda: not worker.processes(second))
