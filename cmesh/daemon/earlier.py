"""What a follow-up turn of a task with a copy goes on with: the patch of the turn before it.

Read off the signed result and the blobs of this worker. The copy itself is put together by
`cmesh.runner.tree`, in a sandbox, and only when it is of the same tree as the one before.
"""

import shutil
from pathlib import Path

from cmesh.daemon.withheld import withheld
from cmesh.errors import RunnerError, SecretFound, TaskRefused
from cmesh.model import TaskSpec
from cmesh.protocol.outcome import Patch
from cmesh.runner.copies import Copy, Earlier, bundle_path, changes_path, earlier_path
from cmesh.store.records import TaskSnapshot
from cmesh.store.store import Store

__all__ = ["earlier_of", "lay_down", "refusal_of"]

_ANEW = "apply what there is, commit it, and delegate a new task"


async def earlier_of(store: Store, spec: TaskSpec) -> tuple[Earlier | None, str]:
    """Return where a turn's copy goes on, and the patch's SHA-256; None = with nothing.

    Raises:
        TaskRefused: the patch of the turn before cannot be gone on with; says why.
    """
    before = await store.task(spec.follows) if spec.follows else None
    if before is None:
        return None, ""
    if (refused := refusal_of(store, before)) is not None:
        raise refused
    patch = _patch(before)
    if patch is None:
        return None, ""
    earlier = Earlier(commit=patch.base_commit, tree=patch.base_tree, patched=bool(patch.sha256))
    return earlier, patch.sha256


def refusal_of(store: Store, before: TaskSnapshot) -> TaskRefused | None:
    """Say why no turn can go on with the patch of a task; None = one can, or there is none.

    What a secret withholds goes nowhere, not into another copy either, before it is released.
    """
    patch, task_id = _patch(before), before.record.task_id
    if before.forgotten:
        return TaskRefused(f"task `{task_id}` is forgotten: its patch was erased", hint=_ANEW)
    if patch is None:
        return None
    held = [one for one in withheld(before) if one.part == "patch"]
    if held and held[0].released_at is None:
        return SecretFound(
            f"the patch of task `{task_id}` is withheld, and the next turn would go on with it"
        )
    if patch.withheld and not held:
        return TaskRefused(
            f"there is no patch of task `{task_id}` to go on with: {patch.reason}", hint=_ANEW
        )
    if patch.sha256 and store.blob_path(patch.sha256) is None:
        return TaskRefused(f"the patch of task `{task_id}` is not kept any more", hint=_ANEW)
    return None


def lay_down(store: Store, copy: Copy, earlier_sha256: str, bundle: Path | None) -> None:
    """Put what a copy is made of besides its directory where the copy's program reads it.

    `bundle` are the commits that its caller has sent, if any. Blocks on the disk.

    Raises:
        RunnerError: something of it is not here any more.
        OSError: the disk refuses.
    """
    wanted: list[tuple[str, Path, str]] = []
    if copy.start.changes is not None:
        sent = copy.start.changes.sha256
        wanted.append((sent, changes_path(copy.task), "the changes that its caller sent are"))
    if copy.start.earlier is not None and copy.start.earlier.patched:
        wanted.append((earlier_sha256, earlier_path(copy.task), "the patch of the turn before is"))
    for sha256, place, what in wanted:
        path = store.blob_path(sha256)
        if path is None:
            raise RunnerError(f"{what} not here any more")
        shutil.copyfile(path, place)
    if bundle is not None:
        shutil.copyfile(bundle, bundle_path(copy.task))


def _patch(task: TaskSnapshot) -> Patch | None:
    told = task.result.patch if task.result else None
    return Patch.model_validate(dict(told)) if told else None
