"""Outputs, patches and files on their way from workers: asked for, checked, stored by their hash.

What does not come as it was announced is not taken; the end it belongs to still is.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmesh.daemon.arriving import Arriving
from cmesh.errors import DiskFull, RemoteProtocolError
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.convert import inline_output
from cmesh.protocol.messages import Artifact, ResultMessage
from cmesh.protocol.outcome import Outcome
from cmesh.runner.artifacts import ARTIFACTS_BYTES
from cmesh.runner.copies import PATCH_BYTES
from cmesh.store.store import Store

__all__ = ["Fetch", "Outputs", "Part", "Wanted"]

logger = logging.getLogger(__name__)


Part = Literal["output", "patch", "artifact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Something that a result announces and that is stored beside it."""

    part: Part
    sha256: str
    size: int
    limit_bytes: int


class Outputs:
    """The transfers of all tasks; one a task at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fetches: dict[TaskId, Fetch] = {}
        self._refused: dict[TaskId, dict[Part, str]] = {}

    def refused(self, task_id: TaskId, part: Part = "output") -> str:
        """Return why a part of a task's end is not taken; empty = nothing stands against it."""
        return self._refused.get(task_id, {}).get(part, "")

    def forget(self, task_id: TaskId) -> None:
        """The end of a task is stored; nothing more of it is expected."""
        self._refused.pop(task_id, None)
        self.drop(task_id)

    def drop(self, task_id: TaskId) -> None:
        """End a transfer; it may be asked for again."""
        fetch = self._fetches.pop(task_id, None)
        if fetch is not None:
            fetch.close()

    def pause(self, task_id: TaskId) -> None:
        """Its link ended; the next one goes on where it stopped."""
        fetch = self._fetches.get(task_id)
        if fetch is not None:
            fetch.asked = False

    def close(self) -> None:
        """End every transfer."""
        for task_id in list(self._fetches):
            self.drop(task_id)

    async def ready(self, link: Link, message: ResultMessage, limit_bytes: int) -> bool:
        """Return whether a result can be stored; False = something of it was asked for.

        Raises:
            DiskFull: there is no room for it.
        """
        task_id = TaskId(message.task_id)
        for wanted in _announced(message.outcome, limit_bytes):
            if self.refused(task_id, wanted.part):
                continue
            if self._store.hold_blob(wanted.sha256):
                continue
            try:
                data = inline_output(message.outcome) if wanted.part == "output" else None
                if data is not None:
                    await self._store.blob(data)
                    continue
                fetch = self._fetches.get(task_id)
                if fetch is None or fetch.sha256 != wanted.sha256:
                    self.drop(task_id)
                    fetch = self._fetches[task_id] = Fetch(
                        task_id, wanted, self._store.incoming, message
                    )
                if not fetch.asked:
                    fetch.asked, fetch.message = True, message
                    ask = Artifact(task_id=task_id, sha256=wanted.sha256, offset=fetch.offset)
                    link.post(ask)
                return False
            except RemoteProtocolError as error:
                self._refuse(task_id, wanted.part, error)
        return True

    async def take(self, chunk: Chunk) -> ResultMessage | None:
        """Take a chunk; return the result that it makes an output or a patch of whole.

        Raises:
            RemoteProtocolError: the bytes are not those announced; they are refused.
            DiskFull: there is no room; the transfer has ended.
        """
        fetch = self._fetches.get(chunk.task_id)
        if fetch is None or not fetch.asked:
            return None  # of a transfer that has ended meanwhile
        try:
            if not fetch.add(chunk):
                return None
            await self._store.take_blob(fetch.close_whole(), fetch.sha256)
        except RemoteProtocolError as error:
            self._refuse(chunk.task_id, fetch.part, error)
            raise
        except DiskFull:
            self.drop(chunk.task_id)
            raise
        self.drop(chunk.task_id)
        return fetch.message

    def pending(self, task_id: TaskId) -> ResultMessage | None:
        """Return the result whose output is on its way."""
        fetch = self._fetches.get(task_id)
        return fetch.message if fetch and fetch.asked else None

    def _refuse(self, task_id: TaskId, part: Part, error: RemoteProtocolError) -> None:
        self.drop(task_id)
        why = f"its {part} was not taken: {error.message}"
        self._refused.setdefault(task_id, {})[part] = why
        data = {"task": task_id, "code": error.code, "why": error.message}
        logger.warning("%s_refused", part, extra={"data": data})


def _announced(outcome: Outcome, limit_bytes: int) -> Iterator[Wanted]:
    """Yield what an end announces; `limit_bytes` is what was asked for of its output."""
    if outcome.output_sha256:
        yield Wanted(
            part="output",
            sha256=outcome.output_sha256,
            size=outcome.output_kept,
            limit_bytes=limit_bytes,
        )
    patch = outcome.patch
    if patch is not None and patch.sha256 and not patch.withheld:
        yield Wanted(part="patch", sha256=patch.sha256, size=patch.bytes, limit_bytes=PATCH_BYTES)
    room = ARTIFACTS_BYTES
    for one in outcome.artifacts.files if outcome.artifacts else ():
        if one.sha256 and not one.withheld:
            yield Wanted(part="artifact", sha256=one.sha256, size=one.bytes, limit_bytes=room)
            room = max(0, room - one.bytes)


class Fetch(Arriving):
    """One transfer; the result it belongs to waits here until the bytes are stored.

    Attributes:
        message: that result; None = it is stored already, and what it withheld comes now.
    """

    what = "an output"

    def __init__(
        self,
        task_id: TaskId,
        wanted: Wanted,
        directory: Path,
        message: ResultMessage | None = None,
    ) -> None:
        """Begin a file in `directory`; raises as any transfer does."""
        super().__init__(task_id, wanted.sha256, wanted.size, wanted.limit_bytes, directory)
        self.message = message
        self.part: Part = wanted.part
        self.sha256 = wanted.sha256
