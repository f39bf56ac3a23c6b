"""A patch with a key in it: refused to its caller, released by the worker's owner, and applied."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import ArtifactArguments, ResultArguments
from cmesh.errors import SecretFound, TaskRefused, UsageError
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND
from tests.system.daemon.machine import Machine, consent, here, interpreter, worker_user
from tests.system.runner.copying import commit, git

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WAIT_S = 45
CANARY = "ghp_" + "x1Y2" * 9
LEAK = f"echo two >>code; printf 'token = %s\\n' {CANARY} >settings; cp settings out.txt"


def rules(worker: Machine) -> str:
    """Return the worker's: a script that leaks, and one that would release what leaked."""
    leak = json.dumps(["/bin/sh", "-c", LEAK])
    given = [f"{name}={value}" for name, value in worker.environment().items()]
    python = interpreter(worker_user())
    script = 'exec env "$@" -m cmesh release "$(cat)" --yes'
    inside = json.dumps(["/bin/sh", "-c", script, "sh", *given, python])
    return f"""
[commands.leak]
argv = {leak}
[commands.inside]
argv = {inside}

[[inbound.allow]]
name = "the laptop may change a copy"
peers = ["user:me@example.com"]
operations = ["task", "artifact"]
profiles = ["query", "edit"]
runners = ["command:leak"]
paths = ["{worker.base}"]

[[inbound.allow]]
name = "a task without a sandbox"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["full"]
runners = ["command:inside"]
paths = ["{worker.base}"]
{consent()}
"""


@pytest.fixture
async def machines(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine, Path]]:
    """Return laptop and worker, up, the laptop trusted, and a repository of the worker."""
    laptop = Machine("applies", ground, testnet, here())
    worker = Machine("withholds", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (worker, rules(worker))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        place = worker.directory("app")
        (place / "code").write_text("one\n")
        commit(place)
        await asyncio.gather(laptop.up(), worker.up())
        await laptop.delegate(
            worker.name, "command:leak", place, profile=Profile.QUERY, new=True, wait_s=0
        )
        await worker.trust(laptop)
        if "tier3" not in (await worker.status()).enforcement:
            pytest.skip("no sandbox of tier 3 here")
        yield laptop, worker, place


async def test_a_withheld_patch_is_its_callers_once_the_owner_says_so(
    machines: tuple[Machine, Machine, Path], tmp_path: Path
) -> None:
    laptop, worker, place = machines
    view = await laptop.delegate(
        worker.name,
        "command:leak",
        place,
        profile=Profile.EDIT,
        artifacts=["*.txt"],
        new=True,
        wait_s=WAIT_S,
    )
    assert view.patch is not None
    assert (view.state, view.patch.withheld) == (TaskState.SUCCEEDED, "secret_found")
    target = tmp_path / "clone"
    git(place, "clone", "-q", str(place), str(target))

    # Refused to the caller, by each way that it has; what is refused says who can change it.
    refused = laptop.cli("apply", view.task_id, "-C", str(target), "--yes")
    assert refused.returncode == SecretFound.exit_status, refused.stderr
    assert f"cmesh release {view.task_id}" in refused.stderr
    with pytest.raises(SecretFound, match="has not released"):
        await laptop.call("get_result", ResultArguments(task_id=view.task_id, part="patch"))
    assert not holds(laptop)
    assert laptop.cli("release", view.task_id, "--yes").returncode == TaskRefused.exit_status

    # Neither a task nor a call without anybody to ask releases anything.
    inside = await laptop.delegate(
        worker.name, "command:inside", place, prompt=view.task_id, new=True, wait_s=WAIT_S
    )
    assert (inside.state, inside.exit_code) == (TaskState.FAILED, TaskRefused.exit_status)
    assert "a task cannot release" in str(await laptop.sql(_errors(inside)))
    assert worker.cli("release", view.task_id).returncode == UsageError.exit_status
    status, words = worker.terminal("n", "release", view.task_id, after=b"[y/N] ")
    assert (status, CANARY in words) == (UsageError.exit_status, False)
    for part in ("for  ", laptop.name, "github", "settings:1", "out.txt:1"):
        assert part in words
    assert await worker.sql("SELECT count(*) FROM releases") == [[0]]

    # The owner releases; the caller is told and has exactly the bytes, also after both restart.
    status, words = worker.terminal("y", "release", view.task_id, after=b"[y/N] ")
    assert (status, CANARY in words) == (0, False)
    assert f"{laptop.name} is told now" in words
    again = worker.cli("release", view.task_id)
    assert (again.returncode, "released already" in again.stdout) == (0, True)
    saved = tmp_path / "saved.patch"
    done = laptop.cli("result", view.task_id, "--patch", str(saved))
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == view.patch.sha256
    assert CANARY in saved.read_text()
    asked = ArtifactArguments(task_id=view.task_id, path="out.txt")
    assert (await laptop.call("get_artifact", asked))["sha256"] == view.artifacts[0].sha256
    done = laptop.cli("apply", view.task_id, "-C", str(target), "--yes")
    assert (done.returncode, (target / "code").read_text()) == (0, "one\ntwo\n"), done.stderr
    assert "released" in laptop.cli("show", view.task_id).stdout

    kept = "SELECT part, direction, program FROM releases ORDER BY part DESC"
    assert [row[:2] for row in await laptop.sql(kept)] == [["patch", "out"], ["artifact", "out"]]
    there = await worker.sql(kept)
    assert [row[:2] for row in there] == [["patch", "in"], ["artifact", "in"]]
    assert all("python" in row[2] or "cmesh" in row[2] for row in there)
    shown = await laptop.task(view.task_id)
    assert shown.patch is not None
    assert (shown.patch.withheld, shown.receipt) == ("", "complete")
    assert laptop.cli("audit", "verify").returncode == 0
    async with laptop.mcp() as agent:
        answer = str(await agent.call("get_result", task_id=view.task_id, part="patch"))
        assert "released" in answer
        assert "+two" in answer
        assert CANARY not in answer  # what reads a text may be a model


def _errors(view: TaskView) -> str:
    return (
        f"SELECT text, error FROM results WHERE task_id = '{view.task_id}' UNION ALL"
        f" SELECT text, kind FROM events WHERE task_id = '{view.task_id}'"
    )


def holds(machine: Machine) -> bool:
    """Say whether the canary lies anywhere in a machine's state."""
    grep = ["grep", "-rqaF", CANARY, str(machine.state)]
    return subprocess.run(grep, check=False).returncode == 0
