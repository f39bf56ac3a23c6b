"""Ids and idempotency keys of tasks on their way to the disk: of two that want one, one gets it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cmesh.errors import TaskConflict
from cmesh.model import Direction, TaskId
from cmesh.store.blobs import Prompts
from cmesh.store.records import TaskRecord

__all__ = ["Reservations"]


class Reservations:
    """What is taken by commits that are not settled yet."""

    def __init__(
        self,
        known: Callable[[TaskId], Awaitable[bool]],
        key_used: Callable[[str], Awaitable[bool]],
        prompts: Prompts | None,
    ) -> None:
        """Make them; `known` and `key_used` ask the store, `prompts` keeps texts meanwhile."""
        self._known = known
        self._key_used = key_used
        self._prompts = prompts
        self._claimed: set[str] = set()

    async def take(self, new: Sequence[TaskRecord], future: "asyncio.Future[int]") -> None:
        """Reserve ids and keys until `future` is done, also when nobody waits for it.

        Raises:
            TaskConflict: one is taken.
        """
        claims: set[str] = set()
        future.add_done_callback(lambda _: self._claimed.difference_update(claims))
        try:
            for record in new:
                claims |= await self._take_one(record)
            if self._prompts is not None:
                await asyncio.to_thread(self._keep_prompts, new)
        except BaseException:
            future.cancel()
            raise

    async def _take_one(self, record: TaskRecord) -> set[str]:
        task_id = record.task_id
        key = record.idempotency_key if record.direction is Direction.OUT else ""
        wanted = {f"id:{task_id}", f"key:{key}"} if key else {f"id:{task_id}"}
        if await self._known(task_id):
            raise TaskConflict(f"task `{task_id}` is in the store already")
        if key and await self._key_used(key):
            raise TaskConflict(f"idempotency key `{key}` was used before")
        # INVARIANT: nothing is awaited between this look and the claim.
        if self._claimed & wanted:
            raise TaskConflict(f"task `{task_id}` is being stored already")
        self._claimed |= wanted
        return wanted

    def _keep_prompts(self, new: Sequence[TaskRecord]) -> None:
        if self._prompts is not None:
            for record in new:
                self._prompts.keep(record.task_id, record.spec.prompt)
