"""Files that a task was asked to hand over, taken once nothing of it lives, kept as blobs.

What is in them was written by an agent: bytes are copied and hashed, never run here, and not
changed. A secret in a file withholds that file.
"""

import asyncio
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from cmesh.beneath import open_root
from cmesh.daemon.parts import Parts
from cmesh.errors import DiskFull
from cmesh.model import Profile, Result, TaskSpec
from cmesh.protocol.outcome import ArtifactFile, Artifacts
from cmesh.redact import Redactor
from cmesh.runner.artifacts import Taken, find, take
from cmesh.text import one_line

__all__ = ["with_artifacts"]

REASON_CHARACTERS = 500


async def with_artifacts(parts: Parts, spec: TaskSpec, result: Result) -> Result:
    """Return a result with the files that the task's globs mean. May be repeated until stored.

    Raises:
        DiskFull: there is no room for them.
    """
    # A task on a copy hands over what is in that; one without a sandbox, what is in its directory.
    copy = parts.supervisor.directory(spec.task_id) / "copy"
    place = Path(spec.directory) if spec.profile is Profile.FULL else copy
    into = Path(tempfile.mkdtemp(prefix="incoming-artifacts-", dir=parts.store.incoming))
    try:
        taken, left_out, why = await asyncio.to_thread(_taken, place, spec, into, parts.redactor())
        for one in taken:
            if one.file is not None:
                await parts.store.blob(one.file)
    except OSError as error:
        raise DiskFull(f"no room for an artifact: {error.strerror}") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, into, ignore_errors=True)
    files = tuple(
        ArtifactFile(path=one.path, bytes=one.bytes, sha256=one.sha256, withheld=one.withheld)
        for one in taken
    )
    told = Artifacts(files=files, left_out=left_out, reason=one_line(why, REASON_CHARACTERS))
    return replace(result, artifacts=told.model_dump(mode="json"))


def _taken(
    place: Path, spec: TaskSpec, into: Path, redactor: Redactor
) -> tuple[list[Taken], int, str]:
    """Return files, how many were left out, and why there are none. Blocks on the disk."""
    try:
        root = open_root(os.path.realpath(place))
    except OSError as error:
        return [], 0, f"its directory cannot be opened: {error.strerror}"
    try:
        names, left_out = find(root, spec.artifacts)
        why = "" if names else "no file fits"
        return list(take(root, names, into, redactor)), left_out, why
    finally:
        os.close(root)
