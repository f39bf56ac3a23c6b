"""Commits, forgets and compacts as fast as it can, and prints what was acknowledged.

`event ID N`: an event of a task that goes on; `asked ID`: this task shall be forgotten;
`erasing ID`, `compacting ID`: begun; `gone ID`: both are done. Argument: directory.
"""

import asyncio
import sys
from pathlib import Path

from cmesh.clock import SystemClock
from cmesh.store.store import Store
from tests.unit.store.support import event, result, state, task

EVENTS = 40


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def commit_for_ever(store: Store) -> None:
    asked, number = task(), 0
    await store.commit([asked])
    while True:
        number += 1
        await store.commit([event(asked, number)])
        say("event", asked.task_id, number)


async def forget_for_ever(store: Store) -> None:
    while True:
        asked = task(prompt="say nothing")
        word = f"WORD-{asked.task_id}"
        events = [event(asked, number, "text", word) for number in range(1, EVENTS)]
        await store.commit([asked, *events, state(asked, "sent"), result(asked, text=word)])
        await store.forget([asked.task_id], {"by": "a test"})
        say("asked", asked.task_id)
        say("erasing", asked.task_id)
        await store.erase_due(None)
        say("compacting", asked.task_id)
        await store.compact()
        say("gone", asked.task_id)


async def until_killed(directory: Path) -> None:
    store = await Store.open(directory, clock=SystemClock(), node="nSELF")
    async with asyncio.TaskGroup() as group:
        group.create_task(commit_for_ever(store))
        group.create_task(forget_for_ever(store))


if __name__ == "__main__":
    asyncio.run(until_killed(Path(sys.argv[1])))
