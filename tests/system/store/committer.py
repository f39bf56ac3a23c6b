"""Commits as fast as it can and prints what was acknowledged: `seq name` a line.

Arguments: directory, clients, and optionally a file to fill the disk with afterwards.
"""

import asyncio
import sys
from pathlib import Path

from cmesh.clock import SystemClock
from cmesh.errors import DiskFull
from cmesh.store.records import AuditRecord
from cmesh.store.store import Store
from tests.unit.store.support import event, task

FILL_BYTES = 1024 * 1024


async def commit_for_ever(store: Store, client: int) -> None:
    asked = task()
    await store.commit([asked])
    number = 0
    while True:
        number += 1
        seq = await store.commit([event(asked, number), AuditRecord(kind="pair")])
        sys.stdout.write(f"{seq} {asked.task_id} {number} {client}\n")
        sys.stdout.flush()


async def until_killed(directory: Path, clients: int) -> None:
    store = await Store.open(directory, clock=SystemClock(), node="nSELF")
    async with asyncio.TaskGroup() as group:
        for client in range(clients):
            group.create_task(commit_for_ever(store, client))


async def on_a_full_disk(directory: Path, filler: Path) -> None:
    """Commit until the disk is full, free it, commit again, and check everything."""
    store = await Store.open(directory, clock=SystemClock(), node="nSELF", floor_bytes=0)
    asked, number, refused = task(), 0, 0
    await store.commit([asked])
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(FILL_BYTES))
        except OSError:
            pass
    while refused < 3:
        try:
            await store.commit([event(asked, number + 1, text="x" * 60_000)])
            number += 1
        except DiskFull:
            refused += 1
    filler.unlink()
    # The database may have died meanwhile; what was acknowledged reaches it now.
    async with asyncio.timeout(20):
        while True:
            try:
                found = len(await store.events(asked.task_id, after=0, limit=10_000))
                break
            except DiskFull:
                await asyncio.sleep(0.1)
    assert found == number, (found, number)
    assert await store.commit([event(asked, number + 1)]) > 0
    checked = await store.verify()
    assert (checked.bad_seq, checked.head_ok) == (None, True), checked
    await store.close()
    again = await Store.open(directory, clock=SystemClock(), node="nSELF", floor_bytes=0)
    assert len(await again.events(asked.task_id, after=0, limit=10_000)) == number + 1
    await again.close()
    sys.stdout.write(f"whole {number}\n")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        asyncio.run(on_a_full_disk(Path(sys.argv[1]), Path(sys.argv[3])))
    else:
        asyncio.run(until_killed(Path(sys.argv[1]), int(sys.argv[2])))
