"""What a worker withheld and its owner has released since, on its way to this caller.

Asked for when somebody here wants it, and when the worker says so. The signed result stands as
it came; the bytes are taken only when they are those that it names.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from cmesh.daemon.background import Background, guarded
from cmesh.daemon.fetch import Fetch, Wanted
from cmesh.daemon.parts import Parts
from cmesh.daemon.turns import Turns
from cmesh.daemon.withheld import Withheld, withheld
from cmesh.errors import CmeshError
from cmesh.link.link import Link
from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import Artifact
from cmesh.runner.artifacts import ARTIFACTS_BYTES
from cmesh.runner.copies import PATCH_BYTES
from cmesh.store.records import StepRecord, TaskSnapshot

__all__ = ["FETCH_S", "Released"]

FETCH_S = 40.0
"""How long one call waits; what has come by then is kept, and a later call goes on."""

NOT_LINKED = "its worker is not linked now"
NOT_RELEASED = "its worker has not released it"


class _Asked:
    """A transfer that some calls wait for; `done` is why it came to nothing, empty = it is here."""

    def __init__(self, worker: NodeId, one: Withheld, fetch: Fetch) -> None:
        self.worker = worker
        self.one = one
        self.fetch = fetch
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def settle(self, why: str) -> None:
        self.fetch.asked = False
        if not self.done.done():
            self.done.set_result(why)


class Released:
    """The transfers of all ended tasks; one a task at a time."""

    def __init__(self, parts: Parts, link: Callable[[NodeId], Link | None]) -> None:
        """Make it; `link` gives the open link to a node, if there is one."""
        self._parts = parts
        self._link = link
        self._asked: dict[TaskId, _Asked] = {}
        self._bringing: set[TaskId] = set()
        self._turns = Turns()
        self._background = Background()

    async def close(self) -> None:
        """End every transfer; what was fetched in part is asked for again."""
        await self._background.close()
        await self._turns.close()
        for task_id in list(self._asked):
            self._drop(task_id, "this daemon stops")

    async def fetch(self, task_id: TaskId, sha256: str) -> str:
        """Bring what was withheld here; return why it did not come, empty = it is here.

        Waits for at most `FETCH_S`.

        Raises:
            RemoteProtocolError: more is announced than is taken.
            DiskFull: there is no room.
        """
        why = "its bytes are on their way; ask again"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FETCH_S):
                while True:
                    task, one = await self._look(task_id, sha256)
                    if one is None:
                        return NOT_RELEASED
                    if self._is_here(one):
                        return ""
                    asked = self._ask(task, one)
                    if asked is None:
                        return NOT_LINKED
                    why_not = await asyncio.shield(asked.done)
                    if asked.one.sha256 == sha256:
                        return why_not
        return why

    def told(self, link: Link, task_ids: Sequence[str]) -> None:
        """A worker says that it has released something of these tasks: have it brought here."""
        for task_id in map(TaskId, task_ids):
            if task_id not in self._bringing:  # a peer may say it as often as it likes
                self._bringing.add(task_id)
                work = self._bring(task_id, link.identity.node_id)
                self._background.spawn(guarded(work))

    def take_chunk(self, link: Link, chunk: Chunk) -> bool:
        """Take a piece of what was asked for; False when it is of something else."""
        asked = self._asked.get(chunk.task_id)
        if asked is None or asked.worker != link.identity.node_id or not asked.fetch.asked:
            return False
        self._turns.add(chunk.task_id, link, partial(self._chunk, asked, chunk))
        return True

    def failed(self, link: Link, message: Failure) -> bool:
        """Take a refusal of what was asked for; False when it is about something else."""
        task_id = TaskId(message.about)
        asked = self._asked.get(task_id)
        if asked is None or asked.worker != link.identity.node_id or not asked.fetch.asked:
            return False
        self._drop(task_id, NOT_RELEASED)
        return True

    def disconnected(self, link: Link) -> None:
        """A link ended; the next call asks for the rest of what is half here."""
        for asked in self._asked.values():
            if asked.worker == link.identity.node_id:
                asked.settle("the link to its worker ended; ask again")

    async def _bring(self, task_id: TaskId, worker: NodeId) -> None:
        try:
            task = await self._parts.store.task(task_id)
            if task is not None and task.record.peer_id == worker:
                for one in withheld(task):
                    await self.fetch(task_id, one.sha256)
        finally:
            self._bringing.discard(task_id)

    async def _look(self, task_id: TaskId, sha256: str) -> tuple[TaskSnapshot, Withheld | None]:
        task = await self._parts.store.task(task_id)
        assert task is not None
        mine = task.record.direction is Direction.OUT
        held = (one for one in withheld(task) if mine and one.sha256 == sha256)
        return task, next(held, None)

    def _is_here(self, one: Withheld) -> bool:
        known = one.released_at is not None
        return known and self._parts.store.blob_path(one.sha256) is not None

    def _ask(self, task: TaskSnapshot, one: Withheld) -> _Asked | None:
        """Return the transfer of a task that goes on, or begin this one; None = there is no link."""
        task_id, worker = task.record.task_id, task.record.peer_id
        asked = self._asked.get(task_id)
        if asked is not None and asked.fetch.asked:
            return asked
        link = self._link(worker)
        if link is None:
            return None
        if asked is None or asked.one.sha256 != one.sha256:
            self._drop(task_id, NOT_RELEASED)
            limit = PATCH_BYTES if one.part == "patch" else ARTIFACTS_BYTES
            wanted = Wanted(part=one.part, sha256=one.sha256, size=one.bytes, limit_bytes=limit)
            fetch = Fetch(task_id, wanted, self._parts.store.incoming)
        else:
            fetch = asked.fetch
        asked = self._asked[task_id] = _Asked(worker, one, fetch)
        fetch.asked = True
        link.post(Artifact(task_id=task_id, sha256=one.sha256, offset=fetch.offset))
        return asked

    async def _chunk(self, asked: _Asked, chunk: Chunk) -> None:
        if self._asked.get(chunk.task_id) is not asked or not asked.fetch.asked:
            return  # of a transfer that has ended meanwhile
        try:
            if not asked.fetch.add(chunk):
                return
            await self._parts.store.take_blob(asked.fetch.close_whole(), asked.fetch.sha256)
            await self._note(chunk.task_id, asked.one)
        except CmeshError as error:
            self._drop(chunk.task_id, f"it was not taken: {error.message}")
            raise
        self._drop(chunk.task_id, "")

    async def _note(self, task_id: TaskId, one: Withheld) -> None:
        """Commit, once, that it is here; transfers of one task follow one another."""
        task, now = await self._look(task_id, one.sha256)
        if now is None or now.released_at is not None:
            return
        fact = StepRecord(
            task_id=task_id,
            direction=task.record.direction,
            kind="fact",
            name=f"{one.part}_released",
            reason="released by the worker's owner",
            data={"sha256": one.sha256, "bytes": one.bytes, "path": one.path},
        )
        await self._parts.store.commit([fact])
        self._parts.news.tell(task_id)

    def _drop(self, task_id: TaskId, why: str) -> None:
        asked = self._asked.pop(task_id, None)
        if asked is not None:
            asked.settle(why)
            asked.fetch.close()
