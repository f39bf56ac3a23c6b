"""Forgetting tasks because somebody asks for it: a look first, then exactly what was shown."""

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from cmesh.daemon.core import Daemon
from cmesh.daemon.forget_calls import (
    CompactView,
    ForgetArguments,
    ForgetView,
    ForgottenTaskView,
)
from cmesh.daemon.lookup import Lookup
from cmesh.daemon.release import program_of
from cmesh.errors import TaskRefused, UnknownPeer, UsageError
from cmesh.model import NodeId, TaskId
from cmesh.store.erasing import Candidate

__all__ = ["compact", "forget"]

T = TypeVar("T")

WAIT_S = 60.0
"""How long a call waits for the erasing; it goes on without it."""

SHOWN = 50


async def forget(
    daemon: Daemon, lookup: Lookup, pid: int, arguments: ForgetArguments
) -> ForgetView:
    """Return the tasks that are asked for, after they were forgotten when that was confirmed.

    Raises:
        UsageError: no task is asked for, or others than were shown.
        TaskRefused: the one task is open, or was forgotten before.
        TaskNotFound: there is no such task.
        UnknownPeer: no task is of that peer, or several nodes had its name.
        StoreError: nothing was written down.
    """
    if not (arguments.task_id or arguments.peer or arguments.ended_before):
        raise UsageError("what is to be forgotten?", hint="name a task, a peer or a date")
    found = await _found(daemon, lookup, arguments)
    ended = [one for one in found if one.ended_at is not None]
    view = _view(ended, open_=len(found) - len(ended))
    if not arguments.confirmed or not ended:
        return view
    if arguments.confirmed != view.confirm:
        raise UsageError(
            "these are not the tasks that were shown: some have ended since",
            hint="look again, without `--yes`",
        )
    why = {
        "pid": pid,
        "program": program_of(pid),
        "task": arguments.task_id or "",
        "peer": arguments.peer or "",
        "ended_before": arguments.ended_before.isoformat() if arguments.ended_before else "",
    }
    await daemon.store.forget([one.task_id for one in ended], why)
    asked = view.model_copy(update={"asked": True})
    swept = await _waited(daemon, daemon.retention.sweep(compact=True))
    if swept is None:
        return asked
    return asked.model_copy(
        update={
            "done": True,
            "files": swept.files,
            "file_bytes": swept.bytes,
            "compacted": swept.compacted is not None,
            "not_compacted": swept.not_compacted,
        }
    )


async def compact(daemon: Daemon) -> CompactView:
    """Write the database anew.

    Raises:
        DiskFull: there is no room for a second copy.
        StoreError: it failed; the store is as it was.
    """
    done = await _waited(daemon, daemon.retention.compact())
    if done is None:
        return CompactView(done=False)
    return CompactView(done=True, bytes_before=done.bytes_before, bytes_after=done.bytes_after)


async def _found(daemon: Daemon, lookup: Lookup, arguments: ForgetArguments) -> list[Candidate]:
    before = arguments.ended_before
    if arguments.task_id:
        task_id = (await lookup.task(arguments.task_id)).record.task_id
        found = await daemon.store.forgettable(ids=[task_id], ended_before=before)
        if not found:
            raise TaskRefused(f"task `{task_id}` is forgotten already", hint="")
        if found[0].ended_at is None:
            raise TaskRefused(
                f"task `{task_id}` is open: its end is not there, or not acknowledged",
                hint=f"cmesh cancel {task_id}, or cmesh wait {task_id}",
            )
        return found
    if not arguments.peer:
        return await daemon.store.forgettable(ended_before=before)
    everything = await daemon.store.forgettable()
    peer_id = _peer(arguments.peer, everything)
    return await daemon.store.forgettable(peers=[peer_id], ended_before=before)


def _peer(name: str, tasks: Sequence[Candidate]) -> NodeId:
    ids = {
        one.peer_id
        for one in tasks
        if name.removeprefix("node:") == one.peer_id or name in {one.peer, one.peer.split(".")[0]}
    }
    if not ids:
        raise UnknownPeer(f"no task here has texts and is of a peer `{name}`", hint="cmesh peers")
    if len(ids) > 1:
        raise UnknownPeer(
            f"{len(ids)} nodes had the name `{name}`", hint=f"name one: {', '.join(sorted(ids))}"
        )
    return ids.pop()


def _view(tasks: Sequence[Candidate], *, open_: int) -> ForgetView:
    return ForgetView(
        tasks=[
            ForgottenTaskView(
                task_id=one.task_id,
                direction=one.direction.value,
                peer=one.peer.partition(".")[0],
                node_id=one.peer_id,
                state=one.state,
                created_at=one.created_at,
                rows=one.rows,
            )
            for one in tasks[:SHOWN]
        ],
        count=len(tasks),
        rows=sum(one.rows for one in tasks),
        open=open_,
        confirm=_digest([one.task_id for one in tasks]),
    )


def _digest(ids: Sequence[TaskId]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest() if ids else ""


async def _waited(daemon: Daemon, work: Awaitable[T]) -> T | None:
    """Return what `work` returns, or None when it takes longer: it goes on."""
    future = asyncio.ensure_future(work)
    daemon.background.spawn(_quiet(future))
    try:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.shield(future)
    except TimeoutError:
        return None


async def _quiet(future: "asyncio.Future[T]") -> None:
    await asyncio.wait([future])
