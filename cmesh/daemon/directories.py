"""What a task's directory was before its agent, and what lies otherwise in it after it.

Told of the directory itself, not of a copy, whose patch says it better. Names in it are redacted.
"""

import asyncio

from cmesh.daemon.admission import Grant
from cmesh.daemon.parts import Parts
from cmesh.daemon.patches import clean_names
from cmesh.model import Profile, Result, TaskId
from cmesh.protocol.evidence import Before, Changed
from cmesh.protocol.outcome import Patch
from cmesh.redact import Redactor
from cmesh.runner.before import changes, note_before, noted_before
from cmesh.text import one_line, scrub

__all__ = ["note_directory", "seen_directory"]

BRANCH_CHARACTERS = 200
REASON_CHARACTERS = 300


async def note_directory(parts: Parts, task_id: TaskId, grant: Grant) -> None:
    """Note what a granted directory is now, before its agent can start.

    Only what the task may see: where its profile shows parts of the directory, nothing. With what
    lies in it where no sandbox holds the task.

    Raises:
        OSError: the directory is another one now, or the disk refuses.
    """
    if grant.profile.read:
        return
    await asyncio.to_thread(
        note_before,
        parts.supervisor.directory(task_id),
        grant.judged,
        parts.clock,
        listed=grant.profile.base is Profile.FULL,
        skip=_own(parts),
    )


async def seen_directory(
    parts: Parts, task_id: TaskId, result: Result, redactor: Redactor
) -> tuple[Before | None, Changed | None]:
    """Return the repository before a task, and what it changed of a directory that is none.

    May be repeated until the result is stored; nothing of the task lives.
    """
    noted = await asyncio.to_thread(noted_before, parts.supervisor.directory(task_id))
    if noted is None:
        return None, None
    before = changed = None
    if noted.head is not None:
        before = Before(
            commit=noted.head.commit,
            branch=one_line(redactor.text(scrub(noted.head.branch))[0], BRANCH_CHARACTERS),
            reason=one_line(redactor.text(noted.head.reason)[0], REASON_CHARACTERS),
        )
        if result.patch:
            patch = Patch.model_validate(dict(result.patch))
            # Git compared the directory with its commit while it made the copy, if of that one.
            if patch.base_commit and patch.base_commit == before.commit and patch.base != "changes":
                before = before.model_copy(update={"dirty": patch.dirty})
    found = await asyncio.to_thread(changes, noted, parts.clock, _own(parts))
    if found is not None:
        changed = Changed(
            files=len(found.names),
            names=clean_names(found.names, redactor),
            complete=not found.reason,
            reason=one_line(redactor.text(found.reason)[0], REASON_CHARACTERS),
        )
    return before, changed


def _own(parts: Parts) -> frozenset[tuple[int, int]]:
    """Return the daemon's own state directory, which changes with every task."""
    info = parts.supervisor.tasks_dir.parent.stat()
    return frozenset({(info.st_dev, info.st_ino)})
