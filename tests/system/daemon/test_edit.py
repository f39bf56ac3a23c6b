"""Profiles `edit` and `build`: a task works on a copy and a patch comes back, through real daemons."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import PatchArguments, ResultArguments
from cmesh.daemon.file_answers import PatchFile
from cmesh.errors import SecretFound, TaskRefused
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND
from tests.system.daemon.machine import Machine, eventually, worker_user
from tests.system.runner.copying import commit, git

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WAIT_S = 40
TOKEN = "ghp_" + "x1Y2" * 9

SCRIPTS = {
    "change": "echo two >>code; printf 'a\\0b' >new; mkdir .claude; echo {} >.claude/settings.json",
    "odd": "printf 'a\\033[31mred\\n' >\"$(printf 'x\\033[2Jy')\"; echo two >>code",
    "nothing": "true",
    "look": "cat code node_modules/dep .venv/dep 2>/dev/null || true",
    "leak": f"echo {TOKEN} >config",
    "slow": 'echo one >>code; echo ready; while [ -e code ] && [ ! -e "$TMPDIR/go" ];'
    " do sleep 0.05; done; echo two >>code",
    "long": "head -c 9000000 /dev/urandom >long",
    "large": "for name in a b; do head -c 40000000 /dev/urandom >$name; done",
    "fill": "while :; do head -c 1000000 /dev/urandom >>large; done",
    "env": 'echo "proxy ${HTTPS_PROXY:+yes}"; cat ../hidden',
}


def commands() -> str:
    """Return the tables of the scripts; TOML takes strings as JSON writes them."""
    argv = {name: json.dumps(["/bin/sh", "-c", text]) for name, text in SCRIPTS.items()}
    return "".join(f"[commands.{name}]\nargv = {words}\n" for name, words in argv.items())


def rules(place: Path) -> str:
    runners = ", ".join(f'"command:{name}"' for name in SCRIPTS)
    return f"""
[profiles.index]
base = "build"
hosts = ["pypi.org"]
limits = {{ disk_mib = 32 }}

[[inbound.allow]]
name = "the laptop may change a copy"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query", "edit", "index"]
runners = [{runners}]
paths = ["{place}"]
bind_ignored = ["node_modules"]
"""


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine]]:
    """Return laptop and worker, up, the laptop trusted."""
    laptop = Machine("asks", ground, testnet, worker_user())
    worker = Machine("copies", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (worker, commands() + rules(worker.base))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        await asyncio.gather(laptop.up(), worker.up())
        await ask(
            laptop, worker, worker.directory("app"), "nothing", profile=Profile.QUERY, wait_s=0
        )
        await worker.trust(laptop)
        if "tier3" not in (await worker.status()).enforcement:
            pytest.skip("no sandbox of tier 3 here")
        yield laptop, worker


@pytest.fixture
def machines(
    pair: tuple[Machine, Machine], request: pytest.FixtureRequest
) -> tuple[Machine, Machine, Path]:
    """Return the pair, and a directory of the worker that is a repository."""
    laptop, worker = pair
    place = worker.directory(request.node.name[:40])
    (place / "code").write_text("one\n")
    commit(place)
    return laptop, worker, place


async def ask(
    laptop: Machine, worker: Machine, place: Path, script: str, **more: object
) -> TaskView:
    fields = {"profile": Profile.EDIT, "new": True, "wait_s": WAIT_S, **more}
    return await laptop.delegate(worker.name, f"command:{script}", place, **fields)


async def patch_of(machine: Machine, task_id: str) -> bytes:
    answer = await machine.call("get_patch", PatchArguments(task_id=task_id))
    found = PatchFile.model_validate(answer)
    data = base64.b64decode(found.data)
    assert hashlib.sha256(data).hexdigest() == found.sha256 == found.patch.sha256
    return data


async def test_the_patch_comes_back_signed_and_the_directory_stays(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    (place / "code").write_text("one\nof today\n")
    view = await ask(laptop, worker, place, "change", base="working-tree")
    assert (view.state, view.exit_code, view.code) == (TaskState.SUCCEEDED, 0, "")
    assert (place / "code").read_text() == "one\nof today\n"
    assert sorted(path.name for path in place.iterdir()) == [".git", "code"]
    patch = view.patch
    assert patch is not None
    assert (patch.files, patch.dirty, patch.withheld) == (3, True, "")
    assert patch.base == "working-tree"
    assert patch.base_commit == git(place, "rev-parse", "HEAD")
    assert patch.changed == ["A .claude/settings.json", "M code", "A new"]
    assert patch.flagged == [".claude/settings.json"]
    assert view.receipt == "complete"

    # The same bytes on both sides, and what git makes of them.
    target = worker.base / "saved.patch"
    data = await patch_of(laptop, view.task_id)
    assert data == await patch_of(worker, view.task_id)
    saved = worker.cli("result", view.task_id, "--patch", str(target))
    assert (saved.returncode, target.read_bytes()) == (0, data)
    assert "look first: .claude/settings.json" in saved.stderr
    assert worker.cli("result", view.task_id, "--patch", str(target)).returncode == 2
    git(place, "apply", str(target))
    assert (place / "code").read_text() == "one\nof today\ntwo\n"
    assert (place / "new").read_bytes() == b"a\0b"

    text = laptop.cli("result", view.task_id, "--part", "patch").stdout
    assert text.startswith("diff --git a/.claude/settings.json")
    shown = laptop.cli("show", view.task_id).stdout
    assert f"3 files, {len(data)} bytes" in shown
    assert "with uncommitted changes" in shown
    [[kept]] = await laptop.sql(
        f"SELECT patch->>'sha256' FROM results WHERE task_id = '{view.task_id}'"
    )
    assert kept == patch.sha256
    await worker.cleared(view.task_id)
    async with laptop.mcp() as agent:
        answer = await agent.call("get_result", task_id=view.task_id, part="patch")
        assert "GIT binary patch" in str(answer)


async def test_by_default_the_copy_is_the_commit_and_ignored_folders_are_those_of_the_rule(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    (place / ".gitignore").write_text("node_modules\n.venv\n")
    git(place, "add", ".gitignore")
    git(place, "commit", "--quiet", "--message=ignore")
    for name in ("node_modules", ".venv"):
        (place / name).mkdir()
        (place / name / "dep").write_text(f"{name}\n")
    (place / "code").write_text("one\nof today\n")
    done = laptop.cli(
        "delegate", worker.name, "x", "-C", str(place), "--profile", "edit", "--runner",
        "command:look",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one\nnode_modules\n"
    async with laptop.mcp() as agent:
        told = await agent.call(
            "delegate", peer=worker.name, prompt="x", directory=str(place), profile="edit",
            runner="command:look", base="working-tree", wait_s=WAIT_S,
        )  # fmt: skip
        assert "of today" in str(told)
    refused = laptop.cli(
        "delegate", worker.name, "x", "-C", str(place), "--profile", "edit", "--base", "index"
    )
    assert refused.returncode == 2
    view = await ask(laptop, worker, place, "change")
    assert view.patch is not None
    assert (view.patch.base, view.patch.dirty) == ("head", True)
    shown = laptop.cli("show", view.task_id).stdout
    assert f"{git(place, 'rev-parse', 'HEAD')[:12]}, without uncommitted changes there" in shown
    [[base]] = await laptop.sql(f"SELECT base FROM tasks WHERE task_id = '{view.task_id}'")
    assert base == "head"


async def test_nothing_changed_is_an_empty_patch_and_a_query_has_none(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, "nothing")
    assert view.patch is not None
    assert (view.patch.files, view.patch.sha256, view.patch.withheld) == (0, "", "")
    assert (await laptop.call("get_patch", PatchArguments(task_id=view.task_id)))["data"] == ""
    query = await ask(laptop, worker, place, "nothing", profile=Profile.QUERY)
    assert query.patch is None
    with pytest.raises(TaskRefused, match="has no patch: profile `query`"):
        await laptop.call("get_patch", PatchArguments(task_id=query.task_id))


async def test_a_secret_withholds_the_patch_from_all_but_the_workers_owner(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, "leak")
    assert view.state is TaskState.SUCCEEDED
    assert view.patch is not None
    assert (view.patch.withheld, view.patch.changed) == ("secret_found", ["A config"])
    for machine in (laptop, worker):
        with pytest.raises(SecretFound):
            await machine.call("get_result", ResultArguments(task_id=view.task_id, part="patch"))
    with pytest.raises(SecretFound):
        await laptop.call("get_patch", PatchArguments(task_id=view.task_id))
    assert laptop.cli("result", view.task_id, "--patch", "-").returncode == SecretFound.exit_status
    assert TOKEN.encode() in await patch_of(worker, view.task_id)
    everything = [path for path in laptop.state.rglob("*") if path.is_file()]
    assert not [path for path in everything if TOKEN.encode() in path.read_bytes()]


async def test_a_long_patch_is_read_in_pieces_and_one_that_is_too_long_is_told(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, "long")
    assert view.patch is not None
    saved = laptop.directory("saved") / "long.patch"
    assert laptop.cli("result", view.task_id, "--patch", str(saved)).returncode == 0
    data = saved.read_bytes()
    assert hashlib.sha256(data).hexdigest() == view.patch.sha256
    answer = await laptop.call("get_patch", PatchArguments(task_id=view.task_id))
    assert len(PatchFile.model_validate(answer).data) < len(data)
    view = await ask(laptop, worker, place, "large")
    view = await laptop.ended(view.task_id, 2 * WAIT_S)
    assert view.patch is not None
    assert (view.patch.withheld, view.patch.files, view.patch.bytes) == ("patch_too_large", 2, 0)
    with pytest.raises(TaskRefused, match="has more than"):
        await laptop.call("get_patch", PatchArguments(task_id=view.task_id))


async def test_a_task_that_ends_while_the_daemon_is_away_has_its_patch_made_once(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, "slow", wait_s=0)
    own = worker.state / "tasks" / view.task_id

    async def printed() -> bool | None:
        now = await laptop.task(view.task_id)
        return True if any(event.text == "ready" for event in now.events) else None

    await eventually(printed, WAIT_S)
    worker.kill()
    (own / "tmp" / "go").touch()

    async def written() -> bool | None:
        return True if (own / "result.json").exists() else None

    await eventually(written, WAIT_S)
    made = (own / "git" / "patch").stat()
    await worker.start()
    await worker.up()
    done = await laptop.ended(view.task_id, WAIT_S)
    assert (done.state, done.patch and done.patch.changed) == (TaskState.SUCCEEDED, ["M code"])
    data = await patch_of(laptop, view.task_id)
    assert (len(data), b"+one\n+two\n" in data) == (made.st_size, True)
    await worker.cleared(view.task_id)


async def test_a_directory_that_is_no_repository_is_copied_as_it_is(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    below = place / "part"
    below.mkdir()
    (below / "code").write_text("one\n")
    view = await ask(laptop, worker, below, "change")
    assert view.state is TaskState.SUCCEEDED
    assert view.patch is not None
    assert (view.patch.base_commit, view.patch.files) == ("", 3)
    assert b"--- a/code\n" in await patch_of(laptop, view.task_id)


async def test_build_has_the_hosts_that_its_owner_lists_and_edit_has_none(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    (place.parent / "hidden").write_text("not for a task\n")
    edit = await ask(laptop, worker, place, "env")
    build = await ask(laptop, worker, place, "env", profile=Profile.BUILD)
    assert (edit.summary, build.summary) == ("proxy", "proxy yes")
    assert build.patch is not None


async def test_a_task_that_fills_the_disk_fails_and_both_sides_know_the_limit(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, "fill", profile=Profile.BUILD)
    view = await laptop.ended(view.task_id, 2 * WAIT_S)
    assert (view.state, view.code) == (TaskState.FAILED, "disk_limit")
    assert "MiB of disk and may take 32 MiB" in view.reason
    assert (await worker.task(view.task_id)).reason == view.reason
    assert view.patch is not None
    # As it was cut off: in the patch, or told, where it is longer than a patch may be.
    assert view.patch.files == 1 or view.patch.left_out == ["large"]
    assert sorted(path.name for path in place.iterdir()) == [".git", "code"]

    async def gone() -> bool:
        return not (worker.state / "tasks" / view.task_id).exists()

    await eventually(gone)


async def test_what_cannot_be_copied_ends_the_task_with_its_reason(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    other = worker.directory("other")
    (other / "file").write_text("one\n")
    commit(other)
    (place / ".git" / "objects" / "info" / "alternates").write_text(f"{other}/.git/objects\n")
    view = await ask(laptop, worker, place, "nothing")
    assert (view.state, view.code) == (TaskState.FAILED, "runner_failed")
    assert "borrows objects of another one" in view.reason
    assert view.patch is None
    await worker.cleared(view.task_id)
