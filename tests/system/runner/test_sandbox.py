"""A sandbox under a real shim: what is planned holds, or nothing starts."""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.model import Profile, TaskId
from cmesh.policy.profiles import BUILT_IN, NamedProfile, ProfileLimits
from cmesh.runner.confine import Sandboxes
from cmesh.runner.evidence import Exit
from cmesh.runner.launch import Launch
from cmesh.runner.programs import Needs
from cmesh.sandbox.start import start
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.support import Worker, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.system]

STUBBORN = "trap 'echo ending; exit 7' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    (place / "note").write_text("a note\n")
    return place


def confined(
    worker: Worker,
    task_id: TaskId,
    place: Path,
    found: Enforcement,
    script: str,
    *hidden: Path,
    own: NamedProfile = BUILT_IN[Profile.QUERY],
) -> Launch:
    task = worker.supervisor.directory(task_id)
    launch = Launch(
        argv=("/bin/sh", "-c", script),
        cwd=str(place),
        env={"PATH": os.defpath, "HOME": f"{task}/home", "TMPDIR": f"{task}/tmp"},
        stdin=b"",
        runtime_s=60,
        output_bytes=100_000,
    )
    sandboxes = Sandboxes(hidden)
    sandboxes.found = found
    return sandboxes.confine(launch, own, Needs())


async def run(worker: Worker, launch: Launch, task_id: TaskId) -> Exit:
    worker.supervisor.prepare(task_id, launch)
    await worker.supervisor.spawn(task_id)
    return await worker.result(task_id)


async def test_claim_and_result_say_what_holds_it(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    exit_ = await run(worker, confined(worker, task_id, place, found, "cat note"), task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.enforcement) == ("exited", 0, found.label)
    assert worker.claim(task_id)["enforcement"] == found.label
    assert worker.output(task_id) == b"a note\n"


async def test_a_task_may_start_in_its_home_and_reads_its_directory_from_there(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    launch = confined(worker, task_id, place, found, f"pwd; cat {place}/note")
    start = f"{launch.env['HOME']}/work"
    await run(worker, replace(launch, starts_in=start), task_id)
    assert worker.output(task_id).decode() == f"{start}\na note\n"


async def test_without_a_sandbox_claim_and_result_say_so(worker: Worker) -> None:
    assert (await worker.run(("/bin/true",))).enforcement == "none"


async def test_what_is_held_by_less_than_planned_is_not_started(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    launch = confined(worker, task_id, place, found, "echo started")
    record: dict[str, Any] = {**cast("Mapping[str, Any]", launch.sandbox)}
    record["order"] = {**record["order"], "landlock": None}
    exit_ = await run(worker, replace(launch, sandbox=record), task_id)
    assert exit_.verdict == "spawn_failed"
    assert f"planned was `landlock={found.landlock_abi} " in exit_.error
    assert exit_.enforcement == "none"
    assert worker.output(task_id) == b""


async def test_a_directory_that_became_a_link_starts_nothing(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    launch = confined(worker, task_id, place, found, "echo started")
    place.rename(place.with_name("moved"))
    place.symlink_to("moved")
    exit_ = await run(worker, launch, task_id)
    assert exit_.verdict == "spawn_failed"
    assert "is a link now" in exit_.error
    assert worker.output(task_id) == b""


async def test_a_directory_that_another_one_took_the_place_of_starts_nothing(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    info = place.stat()
    judged = (str(place.parent), place.name, info.st_dev, info.st_ino)
    task_id = new_id()
    launch = replace(confined(worker, task_id, place, found, "cat note"), judged=judged)
    assert (await run(worker, launch, task_id)).exit_code == 0
    task_id = new_id()
    launch = replace(confined(worker, task_id, place, found, "echo started"), judged=judged)
    place.rename(place.with_name("moved"))
    place.mkdir()
    exit_ = await run(worker, launch, task_id)
    assert exit_.verdict == "spawn_failed"
    assert "another directory now" in exit_.error
    assert worker.output(task_id) == b""


async def test_a_profile_of_the_owner_lowers_the_limits(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    limits = ProfileLimits(memory_mib=1024, processes=64, open_files=100, file_mib=1, disk_mib=1)
    own = NamedProfile(name="small", base=Profile.QUERY, limits=limits)
    launch = confined(worker, task_id, place, found, "ulimit -n; ulimit -v; ulimit -f", own=own)
    assert (await run(worker, launch, task_id)).exit_code == 0
    assert worker.output(task_id).split() == [b"100", b"1048576", b"2048"]


async def test_cmeshs_own_directories_are_empty_below_the_tasks(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id, state = new_id(), place / "state"
    state.mkdir()
    (state / "key").write_text("secret")
    launch = confined(worker, task_id, place, found, "ls -A state; cat note", state)
    exit_ = await run(worker, launch, task_id)
    assert (exit_.exit_code, worker.output(task_id)) == (0, b"a note\n")


async def test_a_program_that_is_not_there_is_named(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    launch = replace(confined(worker, task_id, place, found, ""), argv=("/nowhere/x",))
    exit_ = await run(worker, launch, task_id)
    assert (exit_.verdict, exit_.error) == (
        "spawn_failed",
        "No such file or directory: `/nowhere/x`",
    )


async def test_a_wish_to_end_reaches_the_program_and_leaves_it_its_time(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    worker.supervisor.prepare(task_id, confined(worker, task_id, place, found, STUBBORN))
    await worker.supervisor.spawn(task_id)
    await worker.printed(task_id, b"ready\n")
    worker.supervisor.end(task_id, "cancelled")
    exit_ = await worker.result(task_id)
    assert (exit_.verdict, exit_.exit_code, exit_.processes_left) == ("cancelled", 7, 0)
    assert worker.output(task_id) == b"ready\nending\n"


async def test_what_a_program_leaves_behind_ends_with_it(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    launch = confined(worker, task_id, place, found, "setsid sleep 300 >/dev/null 2>&1 & exit 3")
    exit_ = await run(worker, launch, task_id)
    assert (exit_.exit_code, exit_.processes_left, exit_.leftovers_ended) == (3, 0, 0)
    await worker.eventually(lambda: not worker.processes(task_id))


async def test_an_inherited_descriptor_is_closed(
    worker: Worker, place: Path, found: Enforcement, tmp_path: Path
) -> None:
    own = worker.supervisor.directory(new_id())
    for name in ("home", "tmp"):
        (own / name).mkdir(parents=True)
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("secret")
    kept = os.open(secret, os.O_RDONLY)
    null, sink = os.open(os.devnull, os.O_RDWR), os.open(out, os.O_WRONLY | os.O_CREAT)
    # Numbers nobody holds: the event loop's own descriptors stand among the low ones.
    copies = [fcntl.fcntl(kept, fcntl.F_DUPFD, 30) for _ in range(3)]
    assert all(os.get_inheritable(fd) for fd in copies)
    listed = " ".join(map(str, copies))
    script = f"for fd in {listed}; do cat /proc/self/fd/$fd; done; ls /proc/self/fd | wc -l; exit 4"
    launch = confined(worker, TaskId(own.name), place, found, script)
    try:
        record = {"argv": launch.argv, "cwd": launch.cwd, "env": dict(launch.env)}
        pid = start({**record, "sandbox": launch.sandbox}, null, sink, null)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    finally:
        for fd in (kept, null, sink, *copies):
            os.close(fd)
    assert out.read_text().split() == ["4"]  # the standard three, and `ls` reading the list
