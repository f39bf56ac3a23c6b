"""A secret withholds a patch or a file from its caller until this machine's owner releases it.

Only the control socket leads here: no message of the link, no MCP tool, nothing in a task. The
signed result is not changed by it; its SHA-256 says what may be sent since.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmesh.daemon.file_answers import FoundView, ReleaseView, WithheldView
from cmesh.daemon.file_views import patch_view
from cmesh.daemon.found import find_secrets
from cmesh.daemon.parts import Parts
from cmesh.daemon.views import state_of
from cmesh.daemon.withheld import Withheld, withheld
from cmesh.errors import TaskRefused
from cmesh.model import Direction, host_label
from cmesh.redact import Redactor
from cmesh.store.records import Record, StepRecord, TaskSnapshot
from cmesh.text import one_line

__all__ = ["Release", "program_of"]

_PIECE_BYTES = 1024 * 1024
PROGRAM_CHARACTERS = 64


class Release:
    """What this node's worker withholds, and the owner's word on it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Two owners' words at once make one fact of each thing.
        self._lock = asyncio.Lock()

    async def look(self, task: TaskSnapshot) -> ReleaseView:
        """Return what is withheld, and where secrets stand in it.

        Raises:
            TaskRefused: this node is the caller, nothing is withheld, or it is not kept.
        """
        found = _held(task)
        redactor = self._parts.redactor()
        shown = [await self._shown(one, redactor) for one in found]
        record = task.record
        return ReleaseView(
            task_id=record.task_id,
            peer=host_label(record.peer),
            node_id=record.peer_id,
            principal=one_line(record.principal, 200),
            withheld=shown,
        )

    async def release(self, task: TaskSnapshot, sha256: Sequence[str], pid: int) -> bool:
        """Commit that what is named is the caller's from now on; False = all of it was.

        Raises:
            TaskRefused: as `look`, or none of it has such a hash.
            DiskFull: nothing was committed.
        """
        async with self._lock:
            again = await self._parts.store.task(task.record.task_id)
            held = {one.sha256: one for one in _held(again or task)}
            strange = [one for one in sha256 if one not in held]
            if strange:
                raise TaskRefused(
                    f"task `{task.record.task_id}` withholds nothing with sha256 `{strange[0]}`",
                    hint=f"cmesh release {task.record.task_id} shows what it withholds",
                )
            for name in sha256:
                self._kept(held[name])
            records: list[Record] = [
                _fact(task, held[name], pid)
                for name in dict.fromkeys(sha256)
                if held[name].released_at is None
            ]
            if records:
                await self._parts.store.commit(records)
                self._parts.news.tell(task.record.task_id)
            return bool(records)

    async def _shown(self, one: Withheld, redactor: Redactor) -> WithheldView:
        path = self._kept(one)
        places, count = await asyncio.to_thread(
            find_secrets, _pieces(path), redactor, path=one.path
        )
        return WithheldView(
            part=one.part if one.part == "patch" else "artifact",
            path=one.path,
            sha256=one.sha256,
            bytes=one.bytes,
            found=[FoundView(kind=f.kind, place=f.place, text=f.text) for f in places],
            found_count=count,
            released_at=one.released_at,
        )

    def _kept(self, one: Withheld) -> Path:
        path = self._parts.store.blob_path(one.sha256)
        if path is None:
            what = f"`{one.path}`" if one.path else "the patch"
            raise TaskRefused(f"{what} is not kept here any more", hint="")
        return path


def _held(task: TaskSnapshot) -> list[Withheld]:
    task_id = task.record.task_id
    if task.record.direction is Direction.OUT:
        raise TaskRefused(
            f"this node asked for task `{task_id}`: it has nothing of it to release",
            hint=f"the worker's owner can: `cmesh release {task_id}` there",
        )
    if task.result is None:
        state = state_of(task).value.replace("_", " ")
        raise TaskRefused(f"task `{task_id}` has no result: it is {state}", hint="")
    found = withheld(task)
    if not found:
        view = patch_view(task)
        why = f": {view.reason} [{view.withheld}]" if view and view.withheld else ""
        raise TaskRefused(
            f"no secret withholds anything of task `{task_id}`{why}",
            hint=f"cmesh show {task_id}",
        )
    return found


def _fact(task: TaskSnapshot, one: Withheld, pid: int) -> StepRecord:
    return StepRecord(
        task_id=task.record.task_id,
        direction=task.record.direction,
        kind="fact",
        name=f"{one.part}_released",
        reason="released by this machine's owner",
        data={
            "sha256": one.sha256,
            "bytes": one.bytes,
            "path": one.path,
            "pid": pid,
            "program": program_of(pid),
        },
    )


def program_of(pid: int) -> str:
    """Return the name of the process that asks; empty when it is gone."""
    try:
        words = Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return ""
    return one_line(words.decode("utf-8", "replace").strip(), PROGRAM_CHARACTERS)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_PIECE_BYTES):
            yield data
