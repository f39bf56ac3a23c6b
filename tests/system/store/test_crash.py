"""Kill -9 and full disks: nothing acknowledged is ever lost."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.model import TaskId
from cmesh.store.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[3]
COMMITTER = [sys.executable, "-m", "tests.system.store.committer"]
KILLS = 10
CLIENTS = 8
START_LIMIT_S = 30


@pytest.mark.timeout(240)
async def test_ten_kills_lose_nothing_acknowledged_and_tear_no_commit(tmp_path: Path) -> None:
    directory, acked = tmp_path / "state", dict[TaskId, int]()
    chance = random.Random(7)  # the same kills every time
    for _ in range(KILLS):
        lines = await _killed_after(directory, chance.randrange(1, 150))
        for line in lines:
            _, task_id, number, _ = line.split()
            acked[TaskId(task_id)] = int(number)
        store = await Store.open(directory, clock=SystemClock(), node="nSELF")
        try:
            checked = await store.verify()
            assert (checked.bad_seq, checked.head_ok) == (None, True)
            for task_id, number in acked.items():
                events = await store.events(task_id, after=0, limit=100_000)
                assert [e.seq for e in events] == list(range(1, len(events) + 1))
                assert len(events) >= number
        finally:
            await store.close()
    assert acked
    store = await Store.open(directory, clock=SystemClock(), node="nSELF")
    pairs = await store.sql(
        "SELECT (SELECT count(*) FROM events), count(*) FROM audit WHERE kind = 'pair'", [], 1
    )
    await store.close()
    assert pairs.rows[0][0] == pairs.rows[0][1]


@pytest.mark.timeout(120)
async def test_a_full_disk_refuses_with_a_clear_error_and_corrupts_nothing(tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=40m tmpfs {tmp_path} && "
        f"exec {' '.join(COMMITTER)} {tmp_path}/state 1 {tmp_path}/filler"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    probe = await asyncio.to_thread(
        subprocess.run, [*command[:4], "true"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("no user namespaces: cannot make a small disk")
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("whole ")


async def _killed_after(directory: Path, acks: int) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *COMMITTER, str(directory), str(CLIENTS), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines: list[bytes] = []
    async with asyncio.timeout(START_LIMIT_S):
        while len(lines) < acks:
            line = await process.stdout.readline()
            assert line, "the committer ended by itself"
            lines.append(line)
        process.kill()
        rest = await process.stdout.read()
        await process.wait()
    # What it printed before the kill was acknowledged, except a line cut in half.
    whole = b"".join(lines) + rest[: rest.rfind(b"\n") + 1]
    return whole.decode().splitlines()
