"""A reply on the caller's side: whether it was asked before, and the turn it asks for."""

from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import uuid_utils

from cmesh.daemon.arguments import Context, ReplyArguments
from cmesh.daemon.followup import Standing
from cmesh.errors import UsageError
from cmesh.model import TaskId, TaskSpec
from cmesh.protocol.answer import schema_text
from cmesh.store.records import TaskRecord, TaskSnapshot
from cmesh.store.store import Store

__all__ = ["next_spec", "same", "twin"]

_Number = TypeVar("_Number", int, float)


def same(record: TaskRecord, arguments: ReplyArguments, before: TaskSnapshot) -> bool:
    """Say whether a task is the turn after `before` that a reply asks for."""
    spec, asked = record.spec, (arguments.prompt, _schema(before.record.spec, arguments))
    follows = spec.follows == before.record.task_id
    return follows and (spec.prompt, spec.answer_schema) == asked


async def twin(
    store: Store, context: Context, arguments: ReplyArguments, now: Standing
) -> TaskRecord | None:
    """Return the next turn when the same session asked for the same."""
    task = await store.task(now.by) if now.by else None
    if task is None or task.record.session != context.session:
        return None
    before = await store.task(task.record.spec.follows) if task.record.spec.follows else None
    return task.record if before and same(task.record, arguments, before) else None


def next_spec(before: TaskSpec, arguments: ReplyArguments, not_after: datetime) -> TaskSpec:
    """Return the turn after `before`: the same but for the prompt, and with no more of anything."""
    most = before.limits
    limits = replace(
        most,
        runtime_s=min(most.runtime_s, arguments.timeout_s or most.runtime_s),
        turns=_least(most.turns, arguments.turns),
        tokens=_least(most.tokens, arguments.tokens),
        cost_usd=_least(most.cost_usd, arguments.cost_usd),
    )
    return replace(
        before,
        task_id=TaskId(str(uuid_utils.uuid7())),
        prompt=arguments.prompt,
        limits=limits,
        not_after=not_after,
        follows=before.task_id,
        answer_schema=_schema(before, arguments),
    )


def _least(most: _Number | None, asked: _Number) -> _Number | None:
    """Return a limit that was lowered; `asked` 0 = as it was."""
    if not asked:
        return most
    return asked if most is None else min(most, asked)


def _schema(before: TaskSpec, arguments: ReplyArguments) -> str:
    """Return the schema that the turn after `before` is to answer by.

    Raises:
        UsageError: it is not taken, or is to be that of a turn that had none.
    """
    if not arguments.same_schema:
        return schema_text(arguments.answer_schema)
    if arguments.answer_schema:
        raise UsageError("give a schema, or have that of the turn before; not both")
    if not before.answer_schema:
        raise UsageError(f"task `{before.task_id}` was asked for no answer by a schema")
    return before.answer_schema
