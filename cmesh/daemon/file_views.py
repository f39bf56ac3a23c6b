"""What tasks left in files, as the interfaces show it. Pure: snapshots in, views out."""

import re
from collections.abc import Sequence
from typing import Any

from cmesh.daemon.file_answers import ArtifactView, PatchView
from cmesh.model import Direction
from cmesh.protocol.fields import NAME_CHARACTERS
from cmesh.protocol.outcome import Artifacts, Patch
from cmesh.runner.artifacts import asked
from cmesh.store.records import TaskSnapshot
from cmesh.text import one_line

__all__ = ["artifact_fields", "artifact_views", "code_shown", "names_shown", "patch_view"]

_CODE = re.compile("[a-z_]{1,64}")
_NOT_TAKEN = "what the worker offered is not what it announced, or is more than is taken"


def code_shown(code: str) -> str:
    """Return a code of the form all codes have; another machine may have sent anything."""
    return code if not code or _CODE.fullmatch(code) else "unknown_code"


def names_shown(names: Sequence[str]) -> list[str]:
    """Return names of files, each as one line that is not too long."""
    return [one_line(name, NAME_CHARACTERS) for name in names]


def artifact_views(task: TaskSnapshot) -> list[ArtifactView]:
    """Show the files that a task handed over; none before it has ended, nor once forgotten."""
    told = _told_artifacts(task)
    return _shown(task, told) if told else []


def artifact_fields(task: TaskSnapshot) -> dict[str, Any]:
    """Return what a `TaskView` has of a task's files; empty = it tells of none."""
    told = _told_artifacts(task)
    if told is None:
        return {}
    reason = _NOT_TAKEN if "artifacts_refused" in task.facts else one_line(told.reason, 500)
    return {
        "artifacts": _shown(task, told),
        "artifacts_left_out": told.left_out,
        "artifacts_reason": reason,
    }


def _shown(task: TaskSnapshot, told: Artifacts) -> list[ArtifactView]:
    return [
        ArtifactView(
            path=one_line(one.path, NAME_CHARACTERS),
            bytes=one.bytes,
            sha256=one.sha256,
            withheld="" if _is_here(task, one.sha256) else code_shown(one.withheld),
            released_at=task.released.get(one.sha256),
        )
        for one in told.files
    ]


def _told_artifacts(task: TaskSnapshot) -> Artifacts | None:
    """Return the files that were asked for and told; None = none were, or all was erased.

    INVARIANT: a worker gives a name to nothing that its caller did not ask for: such a name may
    be that of a file which runs or instructs by being there. What a worker found itself, by the
    same globs, is not compared again.
    """
    # A task's globs may be erased before its result is: then they say nothing of its worker.
    if task.forgotten or task.result is None or not task.result.artifacts:
        return None
    told = Artifacts.model_validate(dict(task.result.artifacts))
    if task.record.direction is Direction.IN:
        return told
    meant, compared = asked(task.record.spec.artifacts, [one.path for one in told.files])
    files = tuple(one for one in told.files if one.path in meant)
    strange = len(told.files) - len(files)
    if not strange:
        return told
    count = f"{strange} file{'' if strange == 1 else 's'}"
    reason = f"its worker named {count} that nobody asked for"
    if not compared:
        reason = f"{count} left out: to compare all with the globs asked for takes too long"
    update = {"files": files, "left_out": told.left_out + strange, "reason": reason}
    return told.model_copy(update=update)


def patch_view(task: TaskSnapshot) -> PatchView | None:
    """Show what a task changed of its copy; None = it had none, or has not ended."""
    if task.result is None or not task.result.patch:
        return None
    patch = Patch.model_validate(dict(task.result.patch))
    held = not _is_here(task, patch.sha256)
    return PatchView(
        sha256=patch.sha256,
        bytes=patch.bytes,
        files=patch.files,
        changed=names_shown(patch.changed),
        flagged=names_shown(patch.flagged),
        flagged_count=patch.flagged_count,
        left_out=names_shown(patch.left_out),
        left_out_count=patch.left_out_count,
        base_commit=patch.base_commit,
        dirty=patch.dirty,
        base=patch.base or "",
        withheld=code_shown(patch.withheld) if held else "",
        reason=one_line(patch.reason, 500) if held else "",
        released_at=task.released.get(patch.sha256),
        refused=_NOT_TAKEN if "patch_refused" in task.facts else "",
    )


def _is_here(task: TaskSnapshot, sha256: str) -> bool:
    """Say whether what was withheld is as any other since; on its worker it stays withheld."""
    return task.record.direction is Direction.OUT and sha256 in task.released
