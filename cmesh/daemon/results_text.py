"""Slices of what a task left: its summary, its output, its errors, as scrubbed text."""

import asyncio

from cmesh.daemon.operations import ResultArguments, ResultView
from cmesh.daemon.views import state_of
from cmesh.errors import TaskRefused
from cmesh.model import Direction, Result
from cmesh.store.records import TaskSnapshot
from cmesh.store.store import Store
from cmesh.text import scrub

__all__ = ["read_result"]

OUTPUT_READ_BYTES = 16 * 1024 * 1024
"""The most of an output that is turned into text at once; outputs are capped below it."""


async def read_result(store: Store, task: TaskSnapshot, arguments: ResultArguments) -> ResultView:
    """Return a slice of one part.

    Raises:
        TaskRefused: the task has not ended, or its output was refused.
    """
    result = task.result
    task_id = task.record.task_id
    if result is None:
        state = state_of(task).value.replace("_", " ")
        raise TaskRefused(
            f"task `{task_id}` has no result yet: it is {state}", hint=f"cmesh wait {task_id}"
        )
    if arguments.part == "output" and "output_refused" in task.facts:
        raise TaskRefused(
            f"the output of task `{task_id}` was not taken: what the worker offered is not"
            " what it announced, or is more than was asked for",
            hint=f"cmesh show {task_id} says more; its summary is there",
        )
    text = await _part(store, result, arguments.part)
    end = min(len(text), arguments.offset + arguments.limit)
    return ResultView(
        task_id=task_id,
        peer=task.record.peer.partition(".")[0],
        state=state_of(task),
        part=arguments.part,
        text=text[arguments.offset : end],
        offset=arguments.offset,
        total=len(text),
        next_offset=end if end < len(text) else None,
        sha256=result.output_sha256,
        truncated=result.truncated,
        # Another machine's word about its own sandbox proves nothing.
        self_attested=result.profile_enforced == "none" or task.record.direction is Direction.OUT,
    )


async def _part(store: Store, result: Result, part: str) -> str:
    if part == "summary":
        return scrub(result.text or result.error)
    if part == "errors":
        return scrub(result.error)
    if not result.output_sha256 or store.blob_path(result.output_sha256) is None:
        return ""
    data = await store.read_blob(result.output_sha256, 0, OUTPUT_READ_BYTES)
    # Up to 16 MiB: nobody else waits for it.
    return await asyncio.to_thread(lambda: scrub(data.decode("utf-8", "replace")))
