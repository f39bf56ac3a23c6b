"""`cmesh up --replace` between real versions, with tasks that run: there, back, and refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cmesh.errors import DaemonRestarting, ReplaceFailed, SchemaTooNew
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from cmesh.store.migrations import MIGRATIONS
from tests.system.daemon.conftest import OUTBOUND, inbound
from tests.system.daemon.machine import eventually
from tests.system.daemon.versions import Installed, Version, here_version, install
from tests.system.mcp.support import HELLO

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(120)]

HELD = (
    'n=$(cat)\necho "$n" >> starts\nwhile [ ! -e "go-$n" ]; do sleep 0.05; done\necho "done $n"\n'
)
LIST: dict[str, object] = {"name": "list_tasks", "arguments": {}}
PACE_S = 0.05  # between two calls, so that the caller does not take the processor for itself
HERE = len(MIGRATIONS)
MIGRATION = "ALTER TABLE audit_row ADD COLUMN extra VARCHAR;"
STOP = "CREATE TABLE half (a INTEGER); SELECT error('no such luck');"


@pytest.fixture(scope="module")
def now(ground: Path) -> Version:
    return here_version(ground)


@pytest.fixture(scope="module")
def newer(ground: Path) -> Version:
    """Return a later version whose store has one migration more."""
    return install(ground, "0.9.0", migrations={"0002.sql": MIGRATION})


@pytest.fixture(scope="module")
def patched(ground: Path) -> Version:
    """Return a later version with the same store."""
    return install(ground, "0.8.1")


@pytest.fixture(scope="module")
async def machines(
    ground: Path, testnet: Testnet, now: Version
) -> AsyncIterator[tuple[Installed, Installed, Path]]:
    """Return laptop and builder of the present version, up, the laptop trusted."""
    place = ground / "builder" / "app"
    root = "[worker]\nallow_root = true\nconcurrent = 4\n"
    held = f"[commands.held]\nargv = ['/bin/sh', '-c', '''{HELD}''']\n"
    rule = inbound(place, ["command:held"])
    laptop = Installed("laptop", ground, testnet, now)
    builder = Installed("builder", ground, testnet, now)
    async with AsyncExitStack() as stack:
        for machine, text in ((laptop, OUTBOUND), (builder, f"{root}{held}{rule}")):
            stack.push_async_callback(machine.stop)
            await machine.configure(text)
        builder.directory("app")
        await asyncio.gather(laptop.up(), builder.up())
        (place / "go-first").touch()
        await laptop.delegate("builder", "command:held", place, prompt="first")
        await builder.trust(laptop)
        yield laptop, builder, place


async def running(laptop: Installed, place: Path, name: str) -> str:
    """Start a task that runs until `go-NAME` is there; return its id."""
    view = await laptop.delegate("builder", "command:held", place, prompt=name)

    async def is_running() -> bool | None:
        return (await laptop.task(view.task_id)).state is TaskState.RUNNING or None

    await eventually(is_running)
    return view.task_id


def starts(place: Path) -> list[str]:
    return (place / "starts").read_text("utf-8").split()


async def ended_well(laptop: Installed, place: Path, tasks: dict[str, str]) -> None:
    for name, task_id in tasks.items():
        (place / f"go-{name}").touch()
        ended = await laptop.ended(task_id)
        assert (ended.state, ended.witness) == (TaskState.SUCCEEDED, "shim recorded exit 0")
        assert starts(place).count(name) == 1


async def test_two_versions_follow_each_other_under_live_tasks_and_no_task_notices(
    machines: tuple[Installed, Installed, Path], now: Version, patched: Version
) -> None:
    laptop, builder, place = machines
    tasks = {name: await running(laptop, place, name) for name in ("there", "back", "away")}
    done = await builder.replaced(patched)
    assert (done["before"], done["version"]) == (now.number, patched.number)
    await laptop.replaced(patched)
    (place / "go-there").touch()
    assert (await laptop.ended(tasks["there"])).state is TaskState.SUCCEEDED
    # What ends while nobody looks is taken in by whoever comes next.
    replacing = asyncio.create_task(builder.replaced(now))
    (place / "go-away").touch()
    await replacing
    await laptop.replaced(now)
    assert (await builder.status()).version == now.number
    await ended_well(laptop, place, tasks)


async def test_a_store_that_was_migrated_is_refused_by_the_version_before(
    machines: tuple[Installed, Installed, Path], now: Version, newer: Version
) -> None:
    laptop, builder, place = machines
    tasks = {"up": await running(laptop, place, "up")}
    done = await builder.replaced(newer)
    assert (done["schema"], done["schema_after"]) == (HERE, HERE + 1)
    migrated = await laptop.replaced(newer)
    assert migrated["schema_after"] == HERE + 1
    for machine in (builder, laptop):
        before = (await machine.status()).pid
        refused = await machine.replace(now)
        error = json.loads(refused.stdout)["error"]
        assert (refused.returncode, error["code"]) == (SchemaTooNew.exit_status, "schema_too_new")
        assert f"cmesh {newer.number} goes on untouched" in error["message"]
        status = await machine.status()
        assert (status.pid, status.version) == (before, newer.number)
    await ended_well(laptop, place, tasks)
    rows = await builder.sql("SELECT kind FROM audit WHERE kind = 'store_migrated'")
    assert rows == [["store_migrated"]]


CHECKED = {
    "import": ("interfaces/mcp/server.py", "import asyncio", "import asyncio, not_there"),
    "config": (
        "config.py",
        'def load_config(path: Path) -> Config:\n    """',
        'def load_config(path: Path) -> Config:\n    raise ConfigFileError(path, "poetry")\n    """',
    ),
    "daemon": ("daemon/core.py", "import asyncio", "import asyncio, not_there"),
}


@pytest.fixture(scope="module")
async def solo(ground: Path, testnet: Testnet, now: Version) -> AsyncIterator[Installed]:
    machine = Installed("solo", ground, testnet, now)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(machine.stop)
        await machine.configure(OUTBOUND)
        await machine.up()
        yield machine


async def refused_untouched(solo: Installed, broken: Version) -> dict[str, str]:
    """Let a version that cannot serve try; return its error."""
    before = await solo.status()
    done = await solo.replace(broken)
    assert done.returncode != 0, done.stdout
    after = await solo.status()
    assert (after.pid, after.version) == (before.pid, before.version)
    assert not (solo.state / "replacing").exists()
    assert list((solo.state / "store" / "snapshots").glob("*")) == []
    error = json.loads(done.stdout)["error"]
    assert f"cmesh {before.version} goes on untouched" in error["message"]
    return error


@pytest.mark.parametrize("what", CHECKED)
async def test_a_version_that_cannot_serve_is_refused_before_anything_is_touched(
    solo: Installed, ground: Path, what: str
) -> None:
    broken = install(ground, f"0.9.0-{what}", changes=[CHECKED[what]])
    error = await refused_untouched(solo, broken)
    assert ("poetry" if what == "config" else "not_there") in error["message"]


async def test_a_migration_that_fails_on_the_copy_is_refused_before_anything_is_touched(
    solo: Installed, ground: Path
) -> None:
    half = install(ground, "0.9.0-half", migrations={"0002.sql": MIGRATION, "0003.sql": STOP})
    assert "no such luck" in (await refused_untouched(solo, half))["message"]


# Fail only on the real store: the copy lies under `snapshots`.
REAL = "SELECT CASE WHEN path NOT LIKE '%snapshots%' THEN error('no such luck') END"
FAILS_FOR_REAL = f"{REAL} FROM duckdb_databases() WHERE path IS NOT NULL;"
DIES: tuple[str, str, str] = (
    "interfaces/serve.py",
    "            record_launch(",
    "            os._exit(7)\n            record_launch(",
)


@pytest.mark.parametrize("how", ["migration", "opened", "same_store"])
async def test_a_version_that_fails_as_it_starts_leaves_the_one_before_on_its_old_store(
    solo: Installed, ground: Path, now: Version, how: str
) -> None:
    before = await solo.status()
    migrations = {"0002.sql": MIGRATION} if how != "same_store" else {}
    if how == "migration":
        migrations["0003.sql"] = FAILS_FOR_REAL
    changes = [] if how == "migration" else [DIES]
    broken = install(ground, f"0.9.1-{how}", migrations=migrations, changes=changes)
    done = await solo.replace(broken)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (ReplaceFailed.exit_status, "replace_failed")
    assert f"cmesh {now.number} runs again" in error["message"]
    assert ("on the store from before the migration" in error["message"]) == bool(migrations)
    after = await solo.up()
    assert (after.version, after.node_id) == (now.number, before.node_id)
    assert after.pid != before.pid
    assert after.store_seq >= before.store_seq
    rows = await solo.sql("SELECT count(*) FROM audit WHERE kind = 'store_migrated'")
    assert rows == [[0]]
    assert not (solo.state / "replacing").exists()


async def test_of_two_that_replace_at_once_one_wins_and_the_other_says_so(solo: Installed) -> None:
    before = await solo.status()
    done = await asyncio.gather(solo.replace(), solo.replace())
    assert sorted(one.returncode for one in done) == [0, DaemonRestarting.exit_status]
    [won] = [json.loads(one.stdout) for one in done if one.returncode == 0]
    [lost] = [json.loads(one.stdout)["error"] for one in done if one.returncode]
    assert lost["code"] == "daemon_restarting"
    assert "replaces the daemon already" in lost["message"]
    after = await solo.up()
    assert (after.pid, won["before"]) == (won["pid"], before.version)


async def test_an_agent_s_session_outlives_replacements_and_a_kill(solo: Installed) -> None:
    pipe = asyncio.subprocess.PIPE
    relay = await asyncio.create_subprocess_exec(
        *solo.command("mcp"), env=solo.environment(), stdin=pipe, stdout=pipe
    )
    assert relay.stdin is not None
    assert relay.stdout is not None

    async def ask(number: int, method: str, params: object) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        assert relay.stdin is not None
        assert relay.stdout is not None
        relay.stdin.write(json.dumps(message).encode() + b"\n")
        return json.loads(await relay.stdout.readline())["result"]

    try:
        await ask(0, "initialize", HELLO)
        replacing = asyncio.create_task(solo.replace())
        number = 0
        while not replacing.done():
            number += 1
            answer = await ask(number, "tools/call", LIST)
            text = answer["content"][0]["text"]
            # What failed names the call to make, literally.
            told = text.startswith("daemon_restarted") and "Next: list_tasks()" in text
            assert not answer["isError"] or told
            await asyncio.sleep(PACE_S)
        assert (await replacing).returncode == 0
        await solo.kill_now()
        # Nobody starts it but the session's own relay.
        answer = await ask(number + 1, "tools/call", LIST)
        assert not answer["isError"], answer
    finally:
        relay.stdin.close()
        await relay.wait()
