"""Stored tasks as the interfaces show them. Pure: snapshots and facts in, views out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cmesh.daemon.draft import Draft
from cmesh.daemon.operations import ConditionView, DecisionView, EventView, TaskView
from cmesh.model import TERMINAL, Direction, Event, TaskState
from cmesh.policy.decide import Decision
from cmesh.protocol.facts import WorkerFacts
from cmesh.protocol.state import public
from cmesh.store.records import TaskSnapshot
from cmesh.text import cut, one_line, scrub

__all__ = ["Knowledge", "LinkState", "decision_view", "event_view", "state_of", "task_view"]

LinkState = Literal["connected", "connecting", "down", "none"]

_CODE = re.compile("[a-z_]{1,64}")
PROMPT_CHARACTERS = 500
SUMMARY_CHARACTERS = 1_500
EVENT_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What this node knows of a task besides its rows.

    Attributes:
        link: whether its worker, or its caller, can be reached.
        heard_at: when the other side last had word of it (caller).
        code, reason: what keeps an unfinished task, for example an unreachable peer.
        elsewhere: the worker's store is not the one the task was sent to.
    """

    link: LinkState = "none"
    heard_at: datetime | None = None
    code: str = ""
    reason: str = ""
    elsewhere: bool = False


def state_of(task: TaskSnapshot, *, elsewhere: bool = False) -> TaskState:
    """Return the state that people and agents see."""
    draft = Draft(task.record.task_id, task.record.direction, task)
    if task.record.direction is Direction.OUT:
        facts = draft.caller_facts(connected=False, other_store=elsewhere)
        return public("caller", task.state, facts)
    wish = "cancel_wish" in task.facts
    return public("worker", task.state, WorkerFacts(state=task.state, cancel_wish=wish))


def task_view(
    task: TaskSnapshot,
    *,
    now: datetime,
    knowledge: Knowledge,
    events: Sequence[Event] = (),
    duplicate_of: str | None = None,
) -> TaskView:
    """Show a task as of `now`, with `events`."""
    record, result = task.record, task.result
    state = state_of(task, elsewhere=knowledge.elsewhere)
    word = max(knowledge.heard_at or task.state_ts, task.state_ts)
    settled = state in TERMINAL or record.direction is Direction.IN
    code, reason = task.code, task.reason
    if not settled:
        code, reason = knowledge.code, knowledge.reason
    return TaskView(
        task_id=record.task_id,
        direction=record.direction,
        peer=record.peer.partition(".")[0],
        node_id=record.peer_id,
        state=state,
        witness=_witness(task, state),
        known_s=0 if settled else round(max(0.0, (now - word).total_seconds()), 1),
        link="none" if state in TERMINAL else knowledge.link,
        runner=record.spec.runner,
        profile=record.spec.profile,
        directory=record.spec.directory,
        prompt=cut(scrub(record.spec.prompt), PROMPT_CHARACTERS),
        created_at=task.created_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        elapsed_s=round(((task.ended_at or now) - task.created_at).total_seconds(), 3),
        rule=record.rule,
        reason=one_line(reason, 500),
        code=_code(code or (result.code if result else "")),
        summary=cut(scrub(result.text or result.error), SUMMARY_CHARACTERS) if result else "",
        exit_code=result.exit_code if result else None,
        cost_usd=result.usage.cost_usd if result else None,
        profile_enforced=result.profile_enforced if result else "",
        credential=result.credential if result else "",
        processes_left=result.processes_left if result else None,
        cancel_requested="cancel_wish" in task.facts,
        receipt=_receipt(task),
        duplicate_of=duplicate_of,
        events=[event_view(event) for event in events],
        last_event=task.last_event,
    )


def event_view(event: Event) -> EventView:
    """Show an event, cut for a list."""
    return EventView(
        seq=event.seq,
        ts=event.ts,
        kind=event.kind,
        text=cut(event.text, EVENT_CHARACTERS),
        data=dict(event.data),
    )


def decision_view(decision: Decision) -> DecisionView:
    """Show a decision to this machine's owner, who may know all of it."""
    return DecisionView(
        effect=decision.effect,
        rule=decision.rule,
        failed=[
            ConditionView(rule=f.rule, condition=f.condition, wanted=f.wanted, got=f.got)
            for f in decision.failed
        ],
        change=decision.change,
    )


def _code(code: str) -> str:
    """Return a code of the form all codes have; another machine may have sent anything."""
    return code if not code or _CODE.fullmatch(code) else "unknown_code"


def _witness(task: TaskSnapshot, state: TaskState) -> str:
    """Say what the shown state rests on; a caller may know it by the worker's event only."""
    if task.record.direction is Direction.OUT and state == task.progress and not task.terminal:
        return f"worker: its event says {state.value.replace('_', ' ')}"
    return task.witness


def _receipt(task: TaskSnapshot) -> Literal["none", "pending", "complete"]:
    if not task.worker_signature:
        return "none"
    return "complete" if task.caller_signature else "pending"
