"""Kill -9 in the middle of erasing and of compacting: what was acknowledged stays so."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.model import TaskId
from cmesh.store.compacting import NEW_NAME
from cmesh.store.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[3]
FORGETTER = [sys.executable, "-m", "tests.system.store.forgetter"]
KILLS = 10
LIMIT_S = 30
EVENTS_MOST = 250
"""How many commits may still come after the word at which the kill is due: some 0.3 s of them."""


@pytest.mark.timeout(240)
async def test_ten_kills_leave_the_chain_whole_and_what_was_forgotten_gone(tmp_path: Path) -> None:
    directory, events, asked = tmp_path / "state", dict[TaskId, int](), set[TaskId]()
    chance = random.Random(11)  # the same kills every time
    for kill in range(KILLS):
        word = "compacting" if kill % 2 else "erasing"
        for line in await _killed_after(directory, word, chance.randrange(EVENTS_MOST)):
            match line.split():
                case ["event", task_id, number]:
                    events[TaskId(task_id)] = int(number)
                case ["asked", task_id]:
                    asked.add(TaskId(task_id))
                case _:
                    pass
        store = await Store.open(directory, clock=SystemClock(), node="nSELF")
        try:
            checked = await store.verify()
            assert (checked.finding, checked.head_ok) == (None, True)
            assert asked <= set(await store.forgotten())
        finally:
            await store.close()
    store = await Store.open(directory, clock=SystemClock(), node="nSELF")
    try:
        await store.erase_due(None)
        await store.compact()
        checked = await store.verify()
        assert (checked.finding, checked.head_ok) == (None, True)
        assert len(asked) >= KILLS
        for task_id in asked:
            found = await store.task(task_id)
            assert found is not None
            assert (found.forgotten, found.state) == (True, "succeeded")
        for task_id, number in events.items():
            there = await store.events(task_id, after=0, limit=100_000)
            assert [event.seq for event in there] == list(range(1, len(there) + 1))
            assert len(there) >= number
    finally:
        await store.close()
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert not [path.name for path in files if b"WORD-" in path.read_bytes()]
    assert NEW_NAME not in {path.name for path in files}


async def _killed_after(directory: Path, word: str, events: int) -> list[str]:
    """Kill it so many commits after it has begun what `word` says; return what it said."""
    process = await asyncio.create_subprocess_exec(
        *FORGETTER, str(directory), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines, left = list[bytes](), events
    async with asyncio.timeout(LIMIT_S):
        while left >= 0:
            line = await process.stdout.readline()
            assert line, "it ended by itself"
            lines.append(line)
            begun = left < events or line.startswith(word.encode())
            left -= begun and line.startswith((b"event", word.encode()))
        process.kill()
        rest = await process.stdout.read()
        await process.wait()
    # What it printed before the kill was acknowledged, except a line cut in half.
    whole = b"".join(lines) + rest[: rest.rfind(b"\n") + 1]
    return whole.decode().splitlines()
