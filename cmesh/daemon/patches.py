"""The patch of a task on this worker: taken from its directory, looked through, kept as a blob.

What is in it was written by an agent: it is stored and hashed, never run or applied here. Its
bytes are not changed: a secret in them withholds it.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cmesh.daemon.parts import Parts
from cmesh.errors import SecretFound
from cmesh.model import Result, TaskId
from cmesh.protocol.fields import NAME_CHARACTERS, NAMES_MOST
from cmesh.protocol.outcome import PATCH_CHARACTERS, Patch
from cmesh.redact import Redactor, Stream
from cmesh.runner.copies import PATCH_BYTES, Changed, Made, patch_path, read_changed, read_made
from cmesh.runner.shim_steps import COMPARED
from cmesh.text import cut, one_line

__all__ = ["FAILED", "TOO_LARGE", "clean_names", "with_patch"]

TOO_LARGE, FAILED = "patch_too_large", "patch_failed"
"""Why there are no bytes, besides `secret_found`."""

REASON_CHARACTERS = 500
_CHUNK_BYTES = 64 * 1024
"""Looked through at a time: nothing else of the daemon runs while a pattern is searched in it."""
_LISTS = ("changed", "flagged", "left_out")


async def with_patch(parts: Parts, task_id: TaskId, result: Result, compared: str) -> Result:
    """Return a result with what the task changed of its copy; `compared` as the shim says.

    May be repeated until the result is stored.

    Raises:
        DiskFull: there is no room for it.
    """
    directory = parts.supervisor.directory(task_id)
    redactor = parts.redactor()
    made = await asyncio.to_thread(read_made, directory)
    changed = await asyncio.to_thread(read_changed, directory) if compared == COMPARED else None
    path = patch_path(directory)
    if made is None or changed is None:
        why = compared if compared != COMPARED else "what was found cannot be read"
        why = one_line(redactor.text(why)[0], REASON_CHARACTERS)
        patch = Patch(withheld=FAILED, reason=f"there is no patch: {why}")
    elif changed.bytes > PATCH_BYTES:
        why = f"it has more than the {PATCH_BYTES} bytes of a patch"
        patch = _told(made, changed, redactor, withheld=TOO_LARGE, reason=why)
    elif not changed.bytes:
        patch = _told(made, changed, redactor)
    else:
        hits = await asyncio.to_thread(_secrets, path, redactor)
        why = f"{hits} secrets were found in it; its worker's owner has it" if hits else ""
        patch = _told(
            made, changed, redactor, withheld=SecretFound.code if hits else "", reason=why
        ).model_copy(update={"sha256": await parts.store.blob(path)})
    witness = f"{result.witness}; {patch.reason}" if patch.withheld == FAILED else result.witness
    return replace(result, witness=witness, patch=patch.model_dump(mode="json"))


def _told(
    made: Made, changed: Changed, redactor: Redactor, *, withheld: str = "", reason: str = ""
) -> Patch:
    """Return what is told of a patch, as much of it as fits."""
    patch = Patch(
        bytes=changed.bytes if withheld != TOO_LARGE else 0,
        files=changed.files,
        changed=clean_names(changed.changed, redactor),
        flagged=clean_names(changed.flagged, redactor),
        flagged_count=changed.flagged_count,
        left_out=clean_names([*made.left_out, *changed.left_out], redactor),
        left_out_count=made.left_out_count + changed.left_out_count,
        base_commit=made.commit,
        base_tree=made.tree,
        dirty=made.dirty,
        base=made.base,
        withheld=withheld,
        reason=reason,
    )
    while len(json.dumps(patch.model_dump(mode="json"))) > PATCH_CHARACTERS:
        # The longest list gives way first; the counts still tell of all.
        name = max(_LISTS, key=lambda one: len(json.dumps(getattr(patch, one))))
        names: Sequence[str] = getattr(patch, name)
        patch = patch.model_copy(update={name: names[: len(names) // 2]})
    return patch


def clean_names(names: Sequence[str], redactor: Redactor) -> tuple[str, ...]:
    """Return as many names as one list may hold, without secrets, each cut to its length."""
    clean = [
        cut(one_line(redactor.text(name)[0], NAME_CHARACTERS), NAME_CHARACTERS) for name in names
    ]
    return tuple(clean[:NAMES_MOST])


def _secrets(path: Path, redactor: Redactor) -> int:
    """Count the secrets in a file. Blocks on the disk."""
    stream = Stream(redactor)
    with path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            stream.feed(data)
    stream.finish()
    return stream.hits
