"""Whether the patch of a task would apply in the project of who asks: read, and never changed.

The one place where a daemon runs git: in a directory of its own owner's, on the caller's side,
with nothing that the repository has configured.
"""

import asyncio
import base64
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from cmesh.daemon.file_answers import PatchFile
from cmesh.daemon.patch_answers import CheckPatchView, check_view
from cmesh.errors import SecretFound, TaskRefused, UsageError
from cmesh.patch.look import look

__all__ = ["check_patch"]


async def check_patch(
    found: PatchFile, whole: Callable[[], Awaitable[bytes]], project: str, directory: str
) -> CheckPatchView:
    """Say whether a patch would apply in `directory`, which is in `project`.

    `found` may hold but a piece of it; `whole` reads all.

    Raises:
        UsageError: the directory is elsewhere, or nobody knows the project.
        SecretFound: the patch is withheld; an agent that asks is not its owner.
        TaskRefused: there is nothing in it.
        WrongBase: the directory is in no repository.
    """
    task_id, patch = found.task_id, found.patch
    if patch.withheld:
        raise SecretFound(f"the patch of task `{task_id}` is withheld: {patch.reason}")
    if not found.data:
        raise TaskRefused(f"task `{task_id}` changed nothing: its patch is empty", hint="")
    place = _inside(project, directory)

    def looked(data: bytes) -> CheckPatchView:
        with tempfile.TemporaryDirectory(prefix="cmesh-patch-") as aside:
            sent = base64.b64decode(found.sent) if patch.base == "changes" else None
            seen = look(Path(aside), data, patch.base_commit, place, sent=sent)
            # A link may have come into `place` since; the root has none, and is read over none.
            if not _is_within(place, seen.repository.root):
                raise UsageError("`directory` is another one meanwhile", hint="repeat it")
            return check_view(task_id, seen, found.sha256, len(data), patch=patch)

    return await asyncio.to_thread(looked, await whole())


def _inside(project: str, directory: str) -> str:
    """Return the directory, links resolved, when it is the project or below it."""
    if not project:
        raise UsageError("nobody knows in which directory you work", hint="ask the user to check")
    top = os.path.realpath(project)
    if "\0" in directory:
        raise UsageError("`directory` holds a NUL character", hint="leave it out")
    real = os.path.realpath(Path(top, directory))
    # INVARIANT: what an agent may look at through this is its own project, wherever links lead.
    if not _is_within(real, top):
        raise UsageError(f"`directory` is outside of this project, {top}", hint="leave it out")
    return real


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")
