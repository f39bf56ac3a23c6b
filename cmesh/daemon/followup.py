"""May a task be followed by another turn, and by which is it followed? Asked on both sides.

Each side answers from its own rows, the worker from its disk as well. Nothing is sent here,
and no task that has ended is changed.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from cmesh.daemon.admission import Admission
from cmesh.daemon.earlier import refusal_of
from cmesh.daemon.parts import Parts
from cmesh.errors import (
    CmeshError,
    RunnerCannot,
    SessionGone,
    TaskConflict,
    TaskNotFound,
    TaskRefused,
    TaskUnfinished,
)
from cmesh.model import Direction, Result, TaskId, TaskSpec, TaskState, Usage
from cmesh.runner.manifest import Session
from cmesh.runner.sessions import Place
from cmesh.store.records import TaskRecord, TaskSnapshot
from cmesh.store.store import Store
from cmesh.store.turns import POSSIBLE, gone, taken

__all__ = [
    "FOLLOWED",
    "POSSIBLE",
    "Standing",
    "place",
    "refusal",
    "require_possible",
    "session_of",
    "settle",
    "spent_before",
    "standing",
    "unfit",
    "wider",
]

FOLLOWED = "followed"

_ENDED_WELL = (TaskState.SUCCEEDED, TaskState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether a task can be followed up.

    Attributes:
        code: `possible`, `followed`, or why not: `session_gone`, `runner_cannot`; empty =
            it has not ended, or in a way that ends the conversation.
        by: the turn that follows it; None = none does.
        until: how long it is possible.
    """

    code: str = ""
    by: TaskId | None = None
    until: datetime | None = None


async def standing(store: Store, task: TaskSnapshot, now: datetime) -> Standing:
    """Return whether a task can be followed up, as far as this side knows."""
    result = task.result
    if result is None or task.state not in _ENDED_WELL:
        return Standing()
    if task.forgotten:
        return Standing(code=SessionGone.code)
    turns = await _turns_after(store, task.record.task_id)
    by = taken(turns)
    if by is not None:
        return Standing(code=FOLLOWED, by=by.record.task_id)
    if code := gone(turns):
        return Standing(code=code)
    until = result.follow_up_until
    if result.follow_up == POSSIBLE and (until is None or until <= now):
        return Standing(code=SessionGone.code)
    return Standing(code=result.follow_up, until=until)


def require_possible(task: TaskSnapshot, now: Standing) -> None:
    """Raise why a task cannot be followed up by this node, if it cannot.

    Raises:
        TaskUnfinished: it has not ended.
        TaskConflict: another turn follows it already; names it.
        SessionGone, RunnerCannot: there is no conversation to go on with.
        TaskRefused: it is not this node's to follow up, or ended otherwise.
    """
    task_id, state = task.record.task_id, task.public_state.value.replace("_", " ")
    if task.record.direction is not Direction.OUT:
        raise TaskRefused(f"task `{task_id}` was asked of this node; its caller follows it up")
    if not task.terminal:
        raise TaskUnfinished(
            f"task `{task_id}` has not ended: it is {state}", hint=f"cmesh wait {task_id}"
        )
    if task.state not in _ENDED_WELL:
        raise TaskRefused(f"task `{task_id}` ended {state}; {_ONLY}", hint=_ANEW)
    if now.by is not None:
        raise _conflict(task_id, now.by)
    if now.code == RunnerCannot.code:
        raise _cannot(task.record.spec)
    if now.code != POSSIBLE:
        raise SessionGone(f"the worker has no conversation of task `{task_id}` any more")


async def unfit(parts: Parts, before: TaskSnapshot | None, spec: TaskSpec) -> CmeshError | None:
    """Say why a worker cannot take `spec` as the turn after `before`; None = it can.

    `before` is the caller's own task, or None. Blocks on the disk in a thread.
    """
    if before is None:
        return TaskNotFound("no such task of yours is known here to follow up", hint="")
    task_id, state = before.record.task_id, before.state
    if not before.terminal:
        return TaskUnfinished(f"task `{task_id}` has not ended on the worker", hint="")
    if state not in _ENDED_WELL:
        return TaskRefused(f"task `{task_id}` ended `{state}`; {_ONLY}", hint=_ANEW)
    turns = await _turns_after(parts.store, task_id)
    by = taken([turn for turn in turns if turn.record.task_id != spec.task_id])
    if by is not None:
        return _conflict(task_id, by.record.task_id)
    if wider(spec, before.record.spec):
        return TaskRefused(
            "a follow-up turn keeps runner, profile and directory, and its limits never grow",
            hint=_ANEW,
        )
    session = _session(parts, spec)
    if session is None:
        return _cannot(spec)
    if not await asyncio.to_thread(parts.sessions.kept, before.record.first, session):
        return SessionGone(f"the conversation of task `{task_id}` is not kept any more")
    refused = refusal_of(parts.store, before)
    if refused is None:
        await asyncio.to_thread(parts.sessions.keep, before.record.first, parts.clock.now())
    return refused


def refusal(admission: Admission, error: CmeshError) -> Admission:
    """Return an admission that policy gave as the refusal it becomes by `error`."""
    return replace(
        admission,
        effect="deny",
        grant=None,
        code=error.code,
        reason=error.message,
        change=error.hint,
        record=replace(admission.record, effect="deny", reason=error.message),
    )


def wider(spec: TaskSpec, before: TaskSpec) -> bool:
    """Say whether a turn asks for anything else, or for more, than the turn before it."""
    same = ("runner", "profile", "directory", "accept", "origin")
    if any(getattr(spec, name) != getattr(before, name) for name in same):
        return True
    limits, most = spec.limits, before.limits
    return (
        limits.runtime_s > most.runtime_s
        or limits.output_bytes > most.output_bytes
        or _more(limits.cost_usd, most.cost_usd)
        or _more(limits.turns, most.turns)
        or _more(limits.tokens, most.tokens)
    )


def place(parts: Parts, record: TaskRecord) -> Place | None:
    """Return where a worker keeps a task's conversation; None = its runner has none.

    Raises:
        SessionGone: it is to go on, and is not there.
    """
    session = _session(parts, record.spec)
    if session is None:
        return None
    if record.spec.follows is not None and not parts.sessions.kept(record.first, session):
        raise SessionGone(f"the conversation of task `{record.spec.follows}` is not kept any more")
    return parts.sessions.place(record.first, session)


async def settle(parts: Parts, record: TaskRecord, result: Result, named: str) -> Result:
    """Return a run's result with the turn's own usage, and whether another turn can follow.

    `named` is the id that the agent gave its conversation, by its own word.
    """
    session = _session(parts, record.spec)
    if session is not None:
        spent = await spent_before(parts.store, record)
        result = replace(result, usage=_own_usage(session, result.usage, spent))
    if result.state not in _ENDED_WELL:
        return result
    if session is None:
        return replace(result, follow_up=RunnerCannot.code)
    await asyncio.to_thread(parts.sessions.note, record.first, session, named)
    if not await asyncio.to_thread(parts.sessions.kept, record.first, session):
        return replace(result, follow_up=SessionGone.code)
    until = await asyncio.to_thread(parts.sessions.keep, record.first, parts.clock.now())
    return replace(result, follow_up=POSSIBLE, follow_up_until=until)


async def session_of(parts: Parts, record: TaskRecord, named: str) -> str:
    """Return the id by which a task's agent goes on in its conversation; empty = it cannot.

    `named` is the id that the agent gave it, by its own word.
    """
    session = _session(parts, record.spec)
    if session is None:
        return ""
    await asyncio.to_thread(parts.sessions.note, record.first, session, named)
    if not await asyncio.to_thread(parts.sessions.kept, record.first, session):
        return ""
    return parts.sessions.place(record.first, session).session_id


def _session(parts: Parts, spec: TaskSpec) -> Session | None:
    """Return how a task's conversation is kept; None = it cannot go on in another turn."""
    session = parts.runners().session(spec.runner)
    moves = session is not None and session.same_directory and parts.sandboxes.moves(spec.profile)
    return None if moves else session


def _own_usage(session: Session, usage: Usage, spent: Usage) -> Usage:
    """Return what a turn has used of what its agent says, which may be of the turns before too."""
    if session.adds_up_cost and usage.cost_usd is not None:
        usage = replace(usage, cost_usd=max(0.0, usage.cost_usd - (spent.cost_usd or 0.0)))
    if session.adds_up_tokens and usage.tokens_in is not None:
        usage = replace(usage, tokens_in=max(0, usage.tokens_in - (spent.tokens_in or 0)))
    if session.adds_up_tokens and usage.tokens_out is not None:
        usage = replace(usage, tokens_out=max(0, usage.tokens_out - (spent.tokens_out or 0)))
    return usage


async def spent_before(store: Store, record: TaskRecord) -> Usage:
    """Return what the earlier turns of a conversation have used."""
    cost_usd, tokens_in, tokens_out, at = 0.0, 0, 0, record.spec.follows
    while at is not None:
        task = await store.task(at)
        if task is None:
            break
        used = task.result.usage if task.result else Usage()
        cost_usd += used.cost_usd or 0.0
        tokens_in += used.tokens_in or 0
        tokens_out += used.tokens_out or 0
        at = task.record.spec.follows
    return Usage(cost_usd=cost_usd, tokens_in=tokens_in, tokens_out=tokens_out)


async def _turns_after(store: Store, task_id: TaskId) -> list[TaskSnapshot]:
    found = [await store.task(other) for other in store.followers(task_id)]
    return [task for task in found if task is not None]


def _more(limit: float | None, most: float | None) -> bool:
    if most is None:
        return False
    return limit is None or limit > most


def _conflict(task_id: TaskId, by: TaskId) -> TaskConflict:
    return TaskConflict(
        f"task `{task_id}` is followed by task `{by}` already",
        hint=f"cmesh show {by}; the conversation goes on after its last turn",
    )


def _cannot(spec: TaskSpec) -> RunnerCannot:
    return RunnerCannot(f"runner `{spec.runner}` keeps no conversation that could go on")


_ONLY = "only a task that succeeded or failed can be followed up"
_ANEW = "delegate a new task that says all it needs"
