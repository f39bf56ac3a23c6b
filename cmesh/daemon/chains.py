"""Tasks of this worker that ask for tasks: what each may hand on, and which are its children.

A child is a task of this node like any other: it stands under its own outbound policy and is
cancelled when the task that asked for it has ended. Its session names that task.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from cmesh.daemon.admission import task_request
from cmesh.daemon.caller import Caller
from cmesh.daemon.parts import Parts
from cmesh.daemon.roots import real_path
from cmesh.errors import CmeshError, TaskRefused
from cmesh.model import Direction, Limits, NodeId, Operation, TaskId
from cmesh.policy.chain import callers, least
from cmesh.policy.decide import Decision, decide_inbound, may_delegate
from cmesh.policy.request import Held
from cmesh.protocol.facts import STARTED
from cmesh.protocol.trace import trace_id
from cmesh.store.records import AuditRecord, TaskRecord, TaskSnapshot
from cmesh.store.store import Store

__all__ = [
    "CHILDREN_MOST",
    "PARENT_ENDED",
    "Parent",
    "Turn",
    "children_of",
    "cost_left",
    "end_orphans",
    "handed_on",
    "parent",
    "parent_of",
    "session_of",
    "told_to_a_task",
]

logger = logging.getLogger(__name__)

CHILDREN_MOST = 32
"""Tasks that one task may ask for in its life, ended ones and refused ones counted."""

HANDED_ON = "handed_on"
"""Kind of audit row: a task has asked for another one, whatever the rules said to it."""

PARENT_ENDED = "the task that asked for it has ended"
_SESSION = "task:"
_ITS_OWN = ("chain", "held", "key")
"""Conditions that no rule has: what the task itself has, and who led to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A running task that asks for another one.

    Attributes:
        held: what it may hand on, by the rules of now.
        chain: who led to a task of its own: its callers, then this node.
        directory: its own, links resolved.
        trace: id of the trace that it is in.
        open: whether it still may ask.
    """

    task_id: TaskId
    held: Held
    chain: tuple[NodeId, ...]
    directory: str
    trace: str
    open: Callable[[], bool]


Turn = Callable[[], AbstractAsyncContextManager[Parent]]
"""What a task has left while it asks for one more; nothing else is asked for in its name
meanwhile, so each counts what those before it may spend.
"""


def session_of(task_id: TaskId) -> str:
    """Return the session under which a task's children are kept."""
    return f"{_SESSION}{task_id}"


def parent_of(session: str) -> TaskId | None:
    """Return the task whose children a session keeps; None = it is no task's."""
    return TaskId(session.removeprefix(_SESSION)) if session.startswith(_SESSION) else None


async def children_of(store: Store, task_id: TaskId) -> list[TaskSnapshot]:
    """Return the tasks that a task has asked for, newest first."""
    found = await store.tasks(
        direction=Direction.OUT, session=session_of(task_id), limit=CHILDREN_MOST + 1
    )
    # INVARIANT: a local program may name its session as it likes, and has no chain.
    return [task for task in found if task.record.spec.origin]


async def parent(parts: Parts, task_id: TaskId) -> Parent:
    """Return what a running task may hand on now; asks whois and the rules anew.

    Raises:
        TaskRefused: it does not run any more.
        IdentityUnknown: nobody can say now who its caller is.
        UnknownPeer: its caller has left.
    """
    task = await parts.store.task(task_id)
    if task is None or task.state not in STARTED or not parts.networks.endpoints.is_open(task_id):
        raise TaskRefused("a task that does not run asks for nothing", hint="")
    record = task.record
    identity = await parts.identify(record.peer_id)
    directory = await asyncio.to_thread(real_path, record.spec.directory)
    request = task_request(parts, identity, record.spec, directory)
    policy = parts.rules.policy()
    allowed = may_delegate(request, record.rule, policy)
    decision = decide_inbound(replace(request, operation=Operation.DELEGATE), policy)
    rule = next((rule for rule in policy.inbound if rule.name == record.rule), None)
    now = parts.clock.now()
    limits = decision.limits or Limits(runtime_s=0)
    limits = least(limits, task.granted) if task.granted else limits
    # A task that was just started may not have the time of its start in a row yet.
    passed_s = (now - (task.started_at or now)).total_seconds()
    children = await children_of(parts.store, task_id)
    left = replace(
        limits,
        runtime_s=max(0, int(limits.runtime_s - passed_s)),
        cost_usd=cost_left(limits.cost_usd, children),
        turns=_left(limits.turns, [_turns(child) for child in children]),
        tokens=_left(limits.tokens, [_tokens(child) for child in children]),
    )
    held = Held(
        may_delegate=allowed and parts.rules.error is None,
        profile=record.spec.profile,
        runners=rule.runners if rule is not None else (),
        directory=directory,
        limits=left,
    )
    chain = callers(callers(record.spec.origin, record.peer_id), parts.self_id())
    return Parent(
        task_id=task_id,
        held=held,
        chain=chain,
        directory=directory,
        trace=trace_id(record.spec.traceparent) or task_id.replace("-", ""),
        open=lambda: parts.networks.endpoints.is_open(task_id),
    )


def handed_on(parent: Parent, record: TaskRecord, decision: Decision) -> AuditRecord:
    """Return the row that says which task asked for which, by which chain, and the answer."""
    data = {
        "child": record.task_id,
        "peer_id": record.peer_id,
        "peer": record.peer,
        "chain": [*record.spec.origin, record.peer_id],
        "profile": record.spec.profile.value,
        "runner": record.spec.runner,
        "directory": record.spec.directory,
        "effect": decision.effect,
    }
    return AuditRecord(kind=HANDED_ON, task_id=parent.task_id, data=data)


def told_to_a_task(decision: Decision) -> str:
    """Return why a task may not ask for another one, as much as it may know."""
    if any(failed.condition in _ITS_OWN for failed in decision.failed):
        return decision.reason
    return "the policy of this machine denies it"


async def end_orphans(store: Store, caller: Caller) -> None:
    """Cancel the children of tasks that have ended, or that nobody knows here any more.

    What could not be stored is tried again at the next look.
    """
    for task in await store.unfinished():
        record = task.record
        if record.direction is not Direction.OUT or task.terminal or not record.spec.origin:
            continue
        if not record.session.startswith(_SESSION) or "cancel_wish" in task.facts:
            continue
        asker = await store.task(TaskId(record.session.removeprefix(_SESSION)))
        if asker is not None and not asker.terminal:
            continue
        try:
            await caller.cancel(task, PARENT_ENDED)
        except CmeshError as error:
            data = {"task": record.task_id, "code": error.code}
            logger.warning("orphan_left", extra={"data": data})


def cost_left(cost_usd: float | None, children: list[TaskSnapshot]) -> float | None:
    """Return what is left after the children: what each ended one cost, what each other may."""
    if cost_usd is None:
        return None
    return max(0.0, cost_usd - sum(_cost(child) for child in children))


def _left(most: int | None, used: list[int]) -> int | None:
    return None if most is None else max(0, most - sum(used))


def _turns(child: TaskSnapshot) -> int:
    told = child.result.usage.turns if child.result is not None else None
    return max(0, told) if told is not None else child.record.spec.limits.turns or 0


def _tokens(child: TaskSnapshot) -> int:
    told = child.result.usage.tokens if child.result is not None else None
    return max(0, told) if told is not None else child.record.spec.limits.tokens or 0


def _cost(child: TaskSnapshot) -> float:
    told = child.result.usage.cost_usd if child.result is not None else None
    if told is not None:
        return max(0.0, told)
    return child.record.spec.limits.cost_usd or 0.0
