"""Stored tasks as the interfaces show them. Pure: snapshots and facts in, views out."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from cmesh.daemon.answers import (
    SUMMARY_CHARACTERS,
    ConditionView,
    DecisionView,
    EventView,
    LimitsView,
    MachineView,
    RunnerFactView,
    TaskView,
)
from cmesh.daemon.draft import Draft, retry_in_s
from cmesh.daemon.evidence_answers import (
    AcceptanceView,
    BeforeView,
    ChangedView,
    CommandView,
    EvidenceView,
)
from cmesh.daemon.file_views import artifact_fields, code_shown, names_shown, patch_view
from cmesh.daemon.followup import POSSIBLE, Standing
from cmesh.daemon.outbound import EVENTS_CUT
from cmesh.daemon.verdict import verdict
from cmesh.model import ENDED, Direction, Event, Limits, TaskState, host_label
from cmesh.policy.decide import Decision
from cmesh.policy.explain import OTHERS_POLICY
from cmesh.protocol.evidence import Acceptance, Before, Changed, Evidence
from cmesh.protocol.facts import WorkerFacts
from cmesh.protocol.machine import Machine
from cmesh.protocol.state import public
from cmesh.question import QUESTION_CHARS, question_in
from cmesh.sandbox.tier import LABEL
from cmesh.store.records import TaskSnapshot
from cmesh.store.turns import asks
from cmesh.text import cut, one_line, scrub, scrub_data

__all__ = [
    "Knowledge",
    "LinkState",
    "decision_view",
    "event_view",
    "evidence_view",
    "machine_view",
    "state_of",
    "task_view",
]

LinkState = Literal["connected", "connecting", "down", "none"]

PROMPT_CHARACTERS = 500
EVENT_CHARACTERS = 1_000
ADVICE_CHARACTERS = 2_000
CHOSEN_CHARACTERS = 4_000
CONTAINMENTS = {"pid_namespace", "best_effort"}
KIND_CHARACTERS = 64
NOT_STARTED = {TaskState.SUBMITTING, TaskState.QUEUED, TaskState.WAITING_APPROVAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What this node knows of a task besides its rows.

    Attributes:
        link: whether its worker, or its caller, can be reached.
        heard_at: when the other side last had word of it (caller).
        code, reason: what keeps an unfinished task, for example an unreachable peer.
        elsewhere: the worker's store is not the one the task was sent to.
        processes_left: what the worker counted last of a task that it ends.
        follow_up: whether another turn can follow.
        retry_in_s: when an unfinished task is sent again by itself; None = not by time.
        advice: what may be asked instead of what was denied.
    """

    link: LinkState = "none"
    heard_at: datetime | None = None
    code: str = ""
    reason: str = ""
    elsewhere: bool = False
    processes_left: int | None = None
    follow_up: Standing = field(default_factory=Standing)
    retry_in_s: float | None = None
    advice: str = ""


def state_of(
    task: TaskSnapshot, *, elsewhere: bool = False, follow_up: Standing | None = None
) -> TaskState:
    """Return the state that people and agents see.

    Without `follow_up` a task that waits for input is `succeeded`, as its own rows say.
    """
    if follow_up is not None and follow_up.code == POSSIBLE:
        waits = task.state == TaskState.SUCCEEDED and asks(task.result)
        return TaskState.WAITING_INPUT if waits else TaskState(task.state)
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
    state = state_of(task, elsewhere=knowledge.elsewhere, follow_up=knowledge.follow_up)
    word = max(knowledge.heard_at or task.state_ts, task.state_ts)
    settled = state in ENDED or record.direction is Direction.IN
    code, reason = task.code, task.reason
    if not settled:
        code, reason = knowledge.code, knowledge.reason
    return TaskView(
        task_id=record.task_id,
        direction=record.direction,
        peer=host_label(record.peer),
        node_id=record.peer_id,
        state=state,
        witness=_witness(task, state),
        known_s=0 if settled else round(max(0.0, (now - word).total_seconds()), 1),
        known_at=_known_at(task, state, knowledge),
        link=None if state in ENDED else knowledge.link,
        runner=record.spec.runner,
        profile=record.spec.profile,
        directory=record.spec.directory,
        prompt=cut(scrub(record.spec.prompt), PROMPT_CHARACTERS),
        created_at=task.created_at,
        expires_at=record.spec.not_after if state in NOT_STARTED else None,
        started_at=task.started_at,
        ended_at=task.ended_at,
        # What is denied at once has its end before its row is committed.
        elapsed_s=round(max(0.0, ((task.ended_at or now) - task.created_at).total_seconds()), 3),
        rule=record.rule,
        reason=one_line(_as_seen_here(record.direction, reason), 500),
        code=code_shown(code or (result.code if result else "")),
        advice=cut(scrub(knowledge.advice), ADVICE_CHARACTERS),
        summary=cut(scrub(result.text or result.error), SUMMARY_CHARACTERS) if result else "",
        exit_code=result.exit_code if result else None,
        cost_usd=result.usage.cost_usd if result else None,
        tokens=result.usage.tokens if result else None,
        model_turns=result.usage.turns if result else None,
        limits=_limits(task.granted or record.spec.limits),
        profile_enforced=result.profile_enforced if result else _label(task),
        credential=result.credential if result else "",
        containment=task.containment if task.containment in CONTAINMENTS else "",
        processes_left=result.processes_left if result else knowledge.processes_left,
        redacted=result.redacted if result else 0,
        cancel_requested="cancel_wish" in task.facts,
        receipt=_receipt(task),
        duplicate_of=duplicate_of,
        thread=record.first,
        turn=record.turn,
        follows=record.spec.follows,
        follow_up=code_shown(knowledge.follow_up.code),
        follow_up_until=knowledge.follow_up.until,
        followed_by=knowledge.follow_up.by,
        question=_question(task, knowledge.follow_up),
        events=[event_view(event) for event in events],
        last_event=task.last_event,
        events_cut=EVENTS_CUT in task.facts,
        retry_after_s=_retry_after(task, now, None if settled else knowledge.retry_in_s),
        patch=patch_view(task),
        chosen=cut(scrub(record.selection.chosen), CHOSEN_CHARACTERS) if record.selection else "",
        group=record.selection.group if record.selection else "",
        answer_asked=bool(record.spec.answer_schema),
        answer=answer_of(task),
        **artifact_fields(task),
        accept=[one_line(word, 300) for word in record.spec.accept],
        verdict="" if task.forgotten else verdict(record.spec, result),
        forgotten=task.forgotten,
        evidence=evidence_view(task),
    )


def _as_seen_here(direction: Direction, reason: str) -> str:
    """Return a denial of this node's own without the words that its caller was told."""
    if direction is Direction.OUT:
        return reason
    return reason.replace(OTHERS_POLICY, "this node's policy", 1)


def answer_of(task: TaskSnapshot) -> dict[str, Any] | None:
    """Return the answer that fits the task's schema, scrubbed; None = there is none."""
    if task.result is None or not task.result.answer or "answer_refused" in task.facts:
        return None
    return scrub_data(json.loads(task.result.answer))


def _limits(limits: Limits) -> LimitsView:
    return LimitsView(
        runtime_s=limits.runtime_s,
        output_bytes=limits.output_bytes,
        cost_usd=limits.cost_usd,
        turns=limits.turns,
        tokens=limits.tokens,
    )


def evidence_view(task: TaskSnapshot) -> EvidenceView | None:
    """Show what was found out about a run; None = nothing was told, or it has not ended."""
    if task.result is None or not task.result.evidence:
        return None
    evidence = Evidence.model_validate(dict(task.result.evidence))
    return EvidenceView(
        acceptance=evidence.acceptance and _acceptance(evidence.acceptance),
        tool_calls=evidence.tool_calls,
        commands=[
            CommandView(
                command=one_line(ran.command, 400), exit_code=ran.exit_code, failed=ran.failed
            )
            for ran in evidence.commands
        ],
        commands_count=evidence.commands_count,
        denials=[one_line(one, 400) for one in evidence.denials],
        model=one_line(evidence.model),
        before=evidence.before and _before(evidence.before),
        changed=evidence.changed and _changed(evidence.changed),
    )


def _before(told: Before) -> BeforeView:
    return BeforeView(
        commit=told.commit,
        branch=one_line(told.branch, 200),
        dirty=told.dirty,
        reason=one_line(told.reason, 500),
    )


def _changed(told: Changed) -> ChangedView:
    return ChangedView(
        files=told.files,
        names=names_shown(told.names),
        complete=told.complete,
        reason=one_line(told.reason, 500),
    )


def _acceptance(told: Acceptance) -> AcceptanceView:
    return AcceptanceView(
        argv=[one_line(word, 300) for word in told.argv],
        passed=told.passed,
        end=code_shown(told.end),
        exit_code=told.exit_code,
        reason=one_line(told.reason, 500),
        runtime_s=told.runtime_s,
        output=scrub(told.output),
        output_bytes=told.output_bytes,
        truncated=told.truncated,
    )


def event_view(event: Event) -> EventView:
    """Show an event, cut for a list."""
    return EventView(
        seq=event.seq,
        ts=event.ts,
        kind=one_line(event.kind, KIND_CHARACTERS),
        text=cut(scrub(event.text), EVENT_CHARACTERS),
        data=scrub_data(event.data),
    )


def machine_view(machine: Machine, *, known_s: float, stale: bool = False) -> MachineView:
    """Show what a machine has told of itself; all but a graphics processor's name has a form."""
    runners = machine.runners
    return MachineView(
        os=machine.os,
        distribution=machine.distribution,
        os_version=machine.os_version,
        arch=machine.arch,
        cpus=machine.cpus,
        memory=machine.memory,
        tools=machine.tools,
        gpus=None if machine.gpus is None else [one_line(gpu, 80) for gpu in machine.gpus],
        gpu_by=one_line(machine.gpu_by, 32),
        runners=None
        if runners is None
        else [RunnerFactView(name=r.name, version=r.version, ready=r.ready) for r in runners],
        labels=None if machine.labels is None else list(machine.labels),
        known_s=round(max(0.0, known_s), 1),
        stale=stale,
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


def _question(task: TaskSnapshot, follow_up: Standing) -> str:
    """Return what the agent asks back and can be told; from its text, which its worker signed."""
    if task.result is None or follow_up.code != POSSIBLE:
        return ""
    return one_line(question_in(task.result.text), QUESTION_CHARS)


def _known_at(task: TaskSnapshot, state: TaskState, knowledge: Knowledge) -> datetime | None:
    """Return when the worker last had a say in what is shown; None = never, or it is our task."""
    if task.record.direction is Direction.IN:
        return None
    unsaid = state in (TaskState.SUBMITTING, TaskState.EXPIRED)
    if unsaid or (state is TaskState.CANCELLED and task.result is None):
        return knowledge.heard_at
    return max(knowledge.heard_at or task.state_ts, task.state_ts)


def _witness(task: TaskSnapshot, state: TaskState) -> str:
    """Say what the shown state rests on; a caller may know it by the worker's event only."""
    if task.record.direction is Direction.OUT and state == task.progress and not task.terminal:
        return f"worker: its event says {state.value.replace('_', ' ')}"
    return task.witness


def _retry_after(task: TaskSnapshot, now: datetime, knows_s: float | None) -> int | None:
    """Return the seconds from now, rounded up; a time that has come is 0."""
    if task.state == TaskState.DENIED:
        return retry_in_s(task.facts, now)
    return None if knows_s is None else max(0, math.ceil(knows_s))


def _label(task: TaskSnapshot) -> str:
    return task.enforcement if LABEL.fullmatch(task.enforcement) else ""


def _receipt(task: TaskSnapshot) -> Literal["none", "pending", "complete", "forgotten"]:
    if task.forgotten and task.result is not None:
        return "forgotten"
    if not task.worker_signature:
        return "none"
    return "complete" if task.caller_signature else "pending"
