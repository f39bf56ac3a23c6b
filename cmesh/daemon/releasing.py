"""Releasing what a secret withholds, and having it brought here: the daemon's side of both ends."""

from typing import Literal

from cmesh.daemon.arguments import ReleaseArguments
from cmesh.daemon.asking import CONTACT_LIMIT_S
from cmesh.daemon.core import Daemon
from cmesh.daemon.file_answers import ReleaseView
from cmesh.daemon.lookup import Lookup
from cmesh.daemon.withheld import withheld
from cmesh.errors import SecretFound
from cmesh.model import Direction
from cmesh.store.records import TaskSnapshot
from cmesh.text import one_line

__all__ = ["release", "with_released"]


async def release(
    daemon: Daemon, lookup: Lookup, pid: int, arguments: ReleaseArguments
) -> ReleaseView:
    """Return what a task of a peer withholds, after what is named was released for `pid`.

    Raises:
        TaskRefused: there is nothing of it to release here.
        DiskFull: nothing was committed.
    """
    task, told = await lookup.task(arguments.task_id), False
    if arguments.sha256:
        await daemon.release.release(task, arguments.sha256, pid)
        # Told again when it is said again: the link may have ended before the bytes had come.
        told = daemon.tell_released(task)
        task = await lookup.task(task.record.task_id)
    view = await daemon.release.look(task)
    return view.model_copy(update={"told": told})


async def with_released(
    daemon: Daemon,
    lookup: Lookup,
    task: TaskSnapshot,
    part: Literal["patch", "artifact"],
    path: str = "",
) -> TaskSnapshot:
    """Return an asked task once what a secret withheld of it is here; any other as it is.

    Waits for at most `CONTACT_LIMIT_S` for a link and `FETCH_S` for the bytes.

    Raises:
        SecretFound: the worker has not released it, or cannot be asked now.
        RemoteProtocolError: more is announced than is taken.
        DiskFull: there is no room for it.
    """
    held = [one for one in withheld(task) if (one.part, one.path) == (part, path)]
    if not held or task.record.direction is Direction.IN:
        return task
    task_id, [one, *_] = task.record.task_id, held
    if one.released_at is None or daemon.store.blob_path(one.sha256) is None:
        await daemon.links.attempt(task.record.peer_id, CONTACT_LIMIT_S, unasked=True)
        why = await daemon.caller.released.fetch(task_id, one.sha256)
        if why:
            what = f"`{one_line(path, 200)}`" if path else "the patch"
            raise SecretFound(
                f"{what} of task `{task_id}` is withheld: a secret was found in it; {why}",
                hint=f"the worker's owner can release it: `cmesh release {task_id}` there",
            )
    return await lookup.task(task_id)
