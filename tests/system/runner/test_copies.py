"""A task of `edit` under a real shim: it works on a copy, and what differs is the patch."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

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
    done = await edit(worker, place, found, script)
    assert (done.exit.verdict, done.exit.compared) == ("exited", "yes")
    assert done.output == f"{place}\na note\nof today\n"
    made, changed = read_made(done.own), read_changed(done.own)
    assert made is not None
    assert changed is not None
    assert (made.commit, made.dirty, made.files) == (head, True, 3)
    assert changed.changed == ["M lib/code", "A new", "D note"]
    assert changed.bytes == len(done.patch.encode())
    assert (place / "note").read_text() == "a note\nof today\n"
    assert git(place, "status", "--porcelain") == "M note"
    # What a person does with it.
    (place.parent / "patch").write_bytes((done.own / "git" / "patch").read_bytes())
    git(place, "apply", "../patch")
    assert (place / "lib" / "code").read_text() == "one\ntwo\nthree\n"
    assert (place / "new").read_bytes() == b"a\0b"
    assert not (place / "note").exists()


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
