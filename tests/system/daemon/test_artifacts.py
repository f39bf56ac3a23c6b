"""Files that a task hands over, through real daemons: asked for, allowed, taken, fetched, saved."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import ArtifactArguments, ResultArguments
from cmesh.errors import SecretFound, UsageError
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND
from tests.system.daemon.machine import Machine, here, worker_user
from tests.system.runner.copying import commit

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WAIT_S = 45
BIG = 3 * 1024 * 1024
TOKEN = "ghp_" + "x1Y2" * 9
BUILD = f"""mkdir -p dist/deep .hidden
head -c {BIG} /dev/urandom >dist/big.whl
printf small >dist/deep/small.txt
printf other >dist/other.log
echo {TOKEN} >dist/key.txt
ln -s /etc/passwd dist/passwd.txt
ln -s /etc dist/etc
mkfifo dist/pipe.txt
printf odd >"$(printf 'dist/a\\nb.txt')"
printf hidden >.hidden/no.txt
sha256sum dist/big.whl"""


def rules(place: Path) -> str:
    argv = json.dumps(["/bin/sh", "-c", BUILD])
    return f"""
[commands.build]
argv = {argv}
[commands.none]
argv = ["/bin/true"]

[[inbound.allow]]
name = "the laptop may have files of a copy"
peers = ["user:me@example.com"]
operations = ["task", "artifact"]
profiles = ["query", "edit"]
runners = ["command:build"]
paths = ["{place}"]

[[inbound.allow]]
name = "the laptop may have no files"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query", "edit"]
runners = ["command:none"]
paths = ["{place}"]
"""


@pytest.fixture(scope="module")
async def machines(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine, Path]]:
    """Return laptop and worker, up, the laptop trusted, and a repository of the worker."""
    laptop = Machine("wants", ground, testnet, here())
    worker = Machine("gives", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (worker, rules(worker.base))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        place = worker.directory("app")
        (place / "code").write_text("one\n")
        commit(place)
        await asyncio.gather(laptop.up(), worker.up())
        await ask(laptop, worker, place, runner="none", profile=Profile.QUERY, wait_s=0)
        await worker.trust(laptop)
        if "tier3" not in (await worker.status()).enforcement:
            pytest.skip("no sandbox of tier 3 here")
        yield laptop, worker, place


async def ask(
    laptop: Machine, worker: Machine, place: Path, *, runner: str = "build", **more: object
) -> TaskView:
    fields = {"profile": Profile.EDIT, "new": True, "wait_s": WAIT_S, **more}
    return await laptop.delegate(worker.name, f"command:{runner}", place, **fields)


async def test_files_come_signed_and_are_saved_below_a_folder_alone(
    machines: tuple[Machine, Machine, Path], tmp_path: Path
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, artifacts=["dist/*.whl", "**/*.txt"])
    assert view.state is TaskState.SUCCEEDED, view.reason
    found = {one.path: one for one in view.artifacts}
    # No link, no pipe, nothing hidden; a name with a line end is counted and not told.
    assert set(found) == {"dist/big.whl", "dist/deep/small.txt", "dist/key.txt"}
    assert (view.artifacts_left_out, view.artifacts_reason) == (1, "")
    assert found["dist/big.whl"].bytes == BIG
    assert found["dist/big.whl"].sha256 in view.summary
    assert found["dist/key.txt"].withheld == "secret_found"
    asked = ArtifactArguments(task_id=view.task_id, path="dist/key.txt")
    with pytest.raises(SecretFound):
        await laptop.call("get_artifact", asked)
    listed = ResultArguments(task_id=view.task_id, part="artifacts")
    assert "dist/deep/small.txt  5 bytes" in (await laptop.call("get_result", listed))["text"]
    [[stored]] = await laptop.sql(f"SELECT artifacts FROM results WHERE task_id = '{view.task_id}'")
    assert {one["path"] for one in json.loads(stored)["files"]} == set(found)

    target = tmp_path / "out"
    done = save(laptop, view.task_id, target)
    assert done.returncode == 0, done.stderr
    assert "dist/key.txt: withheld" in done.stderr
    assert names(target) == ["dist/big.whl", "dist/deep/small.txt"]
    big = (target / "dist/big.whl").read_bytes()
    assert hashlib.sha256(big).hexdigest() == found["dist/big.whl"].sha256

    # What is there stays, what is half there goes on, what is a link is no folder of ours.
    (target / "dist/deep/small.txt").write_text("mine")
    part = target / f"dist/.big.whl.{found['dist/big.whl'].sha256[:16]}.part"
    part.write_bytes(big[:1_500_000])
    (target / "dist/big.whl").unlink()
    done = save(laptop, view.task_id, target)
    assert "dist/big.whl: " in done.stderr
    assert "from byte 1500000 on" in done.stderr
    assert (target / "dist/big.whl").read_bytes() == big
    assert not part.exists()
    assert done.returncode == UsageError.exit_status
    assert (target / "dist/deep/small.txt").read_text() == "mine"
    assert save(laptop, view.task_id, target, "--force").returncode == 0
    assert (target / "dist/deep/small.txt").read_text() == "small"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/dist").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    assert save(laptop, view.task_id, tmp_path / "linked").returncode == UsageError.exit_status
    assert not list((tmp_path / "elsewhere").iterdir())


async def test_files_need_their_own_right_a_profile_that_makes_some_and_a_glob_that_leads_down(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, runner="none", artifacts=["*"])
    assert (view.state, view.code) == (TaskState.DENIED, "policy_denied")
    [[change]] = await worker.sql(
        f"SELECT failed FROM decisions WHERE task_id = '{view.task_id}' AND effect = 'deny'"
    )
    assert "artifact" in change
    view = await ask(laptop, worker, place, profile=Profile.QUERY, artifacts=["*"])
    assert (view.state, view.code) == (TaskState.DENIED, "task_refused")
    assert "query" in view.reason
    with pytest.raises(UsageError, match="no glob"):
        await ask(laptop, worker, place, artifacts=["../*"])
    view = await ask(laptop, worker, place, artifacts=["nothing/*"])
    assert (view.state, view.artifacts) == (TaskState.SUCCEEDED, [])
    assert view.artifacts_reason == "no file fits"


def save(machine: Machine, task_id: str, target: Path, *more: str):
    return machine.cli("result", task_id, "--artifacts", str(target), *more)


def names(target: Path) -> list[str]:
    found = [Path(folder, name) for folder, _, files in os.walk(target) for name in files]
    return sorted(path.relative_to(target).as_posix() for path in found)
