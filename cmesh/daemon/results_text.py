"""Slices of what a task left: its summary, its output, its errors, its patch, as scrubbed text.

The patch as bytes is for `git apply`, and for the owner of a node alone.
"""

import asyncio
import base64
import json

from cmesh.daemon.answers import ResultView
from cmesh.daemon.arguments import ArtifactArguments, ResultArguments
from cmesh.daemon.file_answers import ArtifactPiece, PatchFile, PatchView
from cmesh.daemon.file_views import artifact_views, patch_view
from cmesh.daemon.followup import Standing
from cmesh.daemon.verdict import verdict
from cmesh.daemon.views import answer_of, evidence_view, state_of
from cmesh.errors import AnswerInvalid, SecretFound, TaskRefused
from cmesh.model import Direction, Result, host_label
from cmesh.protocol.spec import CHANGES_BYTES
from cmesh.redact import Redactor
from cmesh.store.records import TaskSnapshot
from cmesh.store.store import Store
from cmesh.text import one_line, scrub

__all__ = ["read_artifact", "read_patch", "read_result"]

PATCH_PIECE_BYTES = 6 * 1024 * 1024
"""Of a patch in one answer; a multiple of three, so that pieces in base64 are one text."""

PATCH_TEXT_BYTES = 16 * 1024 * 1024
"""Of a patch that is read as text, without its secrets: more would cost memory and minutes."""

PIECE_BYTES = 1024 * 1024
"""Of a file, in one answer."""

OUTPUT_READ_BYTES = 16 * 1024 * 1024
"""The most of an output that is turned into text at once; outputs are capped below it."""


async def read_result(
    store: Store,
    task: TaskSnapshot,
    arguments: ResultArguments,
    follow_up: Standing,
    redactor: Redactor,
) -> ResultView:
    """Return a slice of one part; of a patch what `redactor` finds is taken out.

    Raises:
        TaskRefused: the task has not ended, its output was refused, or it has no patch.
        SecretFound: its patch is withheld.
        AnswerInvalid: it has no answer that fits the schema it was asked for.
    """
    result = task.result
    task_id = task.record.task_id
    _require_texts(task)
    if result is None:
        state = state_of(task).value.replace("_", " ")
        if task.terminal:
            why = f" [{task.code}]: {task.reason}" if task.code else ""
            raise TaskRefused(
                f"task `{task_id}` has no result: it ended as {state}{why}",
                hint=f"cmesh show {task_id}",
            )
        raise TaskRefused(
            f"task `{task_id}` has no result yet: it is {state}", hint=f"cmesh wait {task_id}"
        )
    if arguments.part == "output" and "output_refused" in task.facts:
        raise TaskRefused(
            f"the output of task `{task_id}` was not taken: what the worker offered is not"
            " what it announced, or is more than was asked for",
            hint=f"cmesh show {task_id} says more; its summary is there",
        )
    if arguments.part == "answer":
        text = _answer(task)
    elif arguments.part == "artifacts":
        text = _listed(task)
    elif arguments.part == "acceptance":
        text = _acceptance_text(task)
    elif arguments.part == "patch":
        text = await _patch_text(store, task, redactor)
    else:
        text = await _part(store, result, arguments.part)
    end = min(len(text), arguments.offset + arguments.limit)
    return ResultView(
        task_id=task_id,
        peer=host_label(task.record.peer),
        state=state_of(task, follow_up=follow_up),
        part=arguments.part,
        text=text[arguments.offset : end],
        offset=arguments.offset,
        total=len(text),
        next_offset=end if end < len(text) else None,
        sha256=result.output_sha256,
        truncated=result.truncated,
        redacted=result.redacted,
        # Another machine's word about its own sandbox proves nothing.
        self_attested=result.profile_enforced == "none" or task.record.direction is Direction.OUT,
        follow_up=follow_up.code,
        follow_up_until=follow_up.until,
        followed_by=follow_up.by,
        patch=patch_view(task),
        verdict=verdict(task.record.spec, result),
        answered=answer_of(task) is not None,
    )


async def read_patch(store: Store, task: TaskSnapshot, offset: int = 0) -> PatchFile:
    """Return a piece of the patch as it is, also of one that this node's own task must withhold.

    Raises:
        TaskRefused: there is none, or its bytes are not here; says why.
        SecretFound: its worker withholds it.
    """
    view = _there(store, task)
    data = b""
    if view.sha256:
        data = await store.read_blob(view.sha256, offset, PATCH_PIECE_BYTES)
    text = (await asyncio.to_thread(base64.b64encode, data)).decode()
    changes, sent = task.record.spec.changes, b""
    if not offset and changes is not None and store.blob_path(changes.sha256) is not None:
        sent = await store.read_blob(changes.sha256, 0, CHANGES_BYTES)
    return PatchFile(
        task_id=task.record.task_id,
        sha256=view.sha256,
        data=text,
        patch=view,
        sent=(await asyncio.to_thread(base64.b64encode, sent)).decode(),
    )


async def read_artifact(
    store: Store, task: TaskSnapshot, arguments: ArtifactArguments
) -> ArtifactPiece:
    """Return a piece of a file; an empty one is its end.

    Raises:
        TaskRefused: the task handed over no file of that path, or its bytes are not here.
        SecretFound: its worker withholds it.
    """
    task_id = task.record.task_id
    _require_texts(task)
    found = next((one for one in artifact_views(task) if one.path == arguments.path), None)
    if found is None:
        raise TaskRefused(
            f"task `{task_id}` handed over no file of that path", hint=f"cmesh show {task_id}"
        )
    if found.withheld:
        refused = SecretFound if found.withheld == SecretFound.code else TaskRefused
        raise refused(f"`{found.path}` of task `{task_id}` is withheld: {found.withheld}")
    if store.blob_path(found.sha256) is None:
        raise TaskRefused(f"`{found.path}` of task `{task_id}` is not kept here", hint="")
    data = await store.read_blob(found.sha256, arguments.offset, PIECE_BYTES)
    return ArtifactPiece(
        task_id=task_id,
        path=found.path,
        sha256=found.sha256,
        total=found.bytes,
        offset=arguments.offset,
        data=base64.b64encode(data).decode(),
    )


def _answer(task: TaskSnapshot) -> str:
    task_id, answer = task.record.task_id, answer_of(task)
    if answer is not None:
        return json.dumps(answer, ensure_ascii=False, indent=1)
    if not task.record.spec.answer_schema:
        raise TaskRefused(
            f"task `{task_id}` was asked for no answer by a schema",
            hint="cmesh delegate --answer-schema FILE",
        )
    why = one_line(task.reason or (task.result.error if task.result else ""), 500)
    raise AnswerInvalid(
        f"task `{task_id}` has no answer: {why}", hint=f"cmesh reply {task_id} --same-schema PROMPT"
    )


def _listed(task: TaskSnapshot) -> str:
    lines = [
        f"{one.path}  {one.bytes} bytes  {one.withheld or f'sha256 {one.sha256}'}"
        for one in artifact_views(task)
    ]
    return "\n".join(lines)


def _acceptance_text(task: TaskSnapshot) -> str:
    task_id, view = task.record.task_id, evidence_view(task)
    if view is not None and view.acceptance is not None:
        return view.acceptance.output or view.acceptance.reason
    if task.record.spec.accept:
        raise TaskRefused(
            f"the worker of task `{task_id}` says nothing of its acceptance command", hint=""
        )
    raise TaskRefused(
        f"task `{task_id}` was asked for without an acceptance command",
        hint="give one when you delegate: `cmesh delegate … --accept COMMAND`",
    )


async def _patch_text(store: Store, task: TaskSnapshot, redactor: Redactor) -> str:
    view = _there(store, task)
    if view.withheld:  # its owner may have the bytes; what reads a text may be a model
        raise SecretFound(
            f"the patch of task `{task.record.task_id}` is withheld: {view.reason}",
            hint=f"at a terminal outside of every task: `cmesh release {task.record.task_id}`",
        )
    if not view.sha256:
        return ""
    data = await store.read_blob(view.sha256, 0, PATCH_TEXT_BYTES)
    more = (
        f"\n[the rest of {view.bytes} bytes is not shown here]\n" if view.bytes > len(data) else ""
    )
    text = await asyncio.to_thread(lambda: scrub(redactor.text(data.decode("utf-8", "replace"))[0]))
    return text + more


def _require_texts(task: TaskSnapshot) -> None:
    if task.forgotten:
        task_id = task.record.task_id
        raise TaskRefused(
            f"task `{task_id}` is forgotten: its texts and files were erased here",
            hint=f"cmesh show {task_id}",
        )


def _there(store: Store, task: TaskSnapshot) -> PatchView:
    """Return what is known of a patch whose bytes are here, or that is empty."""
    task_id, view = task.record.task_id, patch_view(task)
    _require_texts(task)
    if task.result is None:
        state = state_of(task).value.replace("_", " ")
        raise TaskRefused(
            f"task `{task_id}` has no patch yet: it is {state}", hint=f"cmesh wait {task_id}"
        )
    if view is None:
        raise TaskRefused(
            f"task `{task_id}` has no patch: profile `{task.record.spec.profile}` or its end made none",
            hint="a task of `edit` or `build` that ran to its end has one",
        )
    if view.sha256 and store.blob_path(view.sha256) is not None:
        return view
    if view.withheld == SecretFound.code:
        raise SecretFound(
            f"the patch of task `{task_id}` is withheld: {view.reason}",
            hint=f"the worker's owner can release it: `cmesh release {task_id}` there",
        )
    if view.withheld or view.refused:
        raise TaskRefused(
            f"task `{task_id}` has no patch: {view.reason or view.refused}",
            hint=f"cmesh show {task_id}",
        )
    if view.sha256:
        raise TaskRefused(f"the patch of task `{task_id}` is no longer kept here", hint="")
    return view


async def _part(store: Store, result: Result, part: str) -> str:
    if part == "summary":
        return scrub(result.text or result.error)
    if part == "errors":
        return scrub(result.error)
    if not result.output_sha256 or store.blob_path(result.output_sha256) is None:
        return ""
    data = await store.read_blob(result.output_sha256, 0, OUTPUT_READ_BYTES)
    # Up to 16 MiB: nobody else waits for it.
    return await asyncio.to_thread(lambda: scrub(data.decode("utf-8", "replace")))
