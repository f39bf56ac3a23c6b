"""A reply on the caller's side: whether it was asked before, and the turn it asks for."""

from dataclasses import replace
from datetime import datetime

import uuid_utils

from cmesh.daemon.arguments import Context, ReplyArguments
from cmesh.daemon.followup import Standing
from cmesh.model import TaskId, TaskSpec
from cmesh.store.records import TaskRecord, TaskSnapshot
from cmesh.store.store import Store

__all__ = ["next_spec", "same", "twin"]


def same(record: TaskRecord, arguments: ReplyArguments, before: TaskSnapshot) -> bool:
    """Say whether a task is the turn after `before` that a reply asks for."""
    spec = record.spec
    return (spec.follows, spec.prompt) == (before.record.task_id, arguments.prompt)


async def twin(
    store: Store, context: Context, arguments: ReplyArguments, now: Standing
) -> TaskRecord | None:
    """Return the next turn when the same session asked for the same."""
    task = await store.task(now.by) if now.by else None
    if task is None or task.record.session != context.session:
        return None
    return task.record if task.record.spec.prompt == arguments.prompt else None


def next_spec(before: TaskSpec, arguments: ReplyArguments, not_after: datetime) -> TaskSpec:
    """Return the turn after `before`: the same but for the prompt, and with no more time."""
    most_s = before.limits.runtime_s
    return replace(
        before,
        task_id=TaskId(str(uuid_utils.uuid7())),
        prompt=arguments.prompt,
        limits=replace(before.limits, runtime_s=min(most_s, arguments.timeout_s or most_s)),
        not_after=not_after,
        follows=before.task_id,
    )
