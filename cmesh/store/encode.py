"""Records as rows: what goes into which table.

Every check that a database would make is made here, before anything is written:
a row that left this file must be insertable. Nothing here does I/O.
"""

import math
import re
from dataclasses import asdict
from functools import singledispatch

from cmesh.errors import StoreError
from cmesh.protocol.trace import trace_id
from cmesh.store.chain import clean, micros, stored_json
from cmesh.store.records import (
    AuditRecord,
    DecisionRecord,
    EventRecord,
    ReceiptRecord,
    Record,
    ResultRecord,
    StepRecord,
    TaskRecord,
    TrustRecord,
)
from cmesh.store.row import Row, Value
from cmesh.store.texts import ERASABLE, KEPT_FACTS

__all__ = ["encode", "unfit"]

_TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INT64 = 2**63


def encode(record: Record, *, salt: str) -> Row:
    """Return the row of a record.

    Raises:
        StoreError: the record holds something no column or JSON text can carry.
    """
    row = _row(record, salt)
    values = row.values
    if values.get("salt") is not None and not row.salted():
        # INVARIANT: a salt stands only where a digest vouches for it, or it could be changed.
        row = row._replace(values={**values, "salt": None})
    for name, value in values.items():
        if type(value) is str:  # nearly all there is
            continue
        problem = unfit(value)
        if problem:
            raise StoreError(f"a `{row.kind}` record's `{name}` {problem}")
    for task_id in (row.task_id, values.get("follows"), values.get("thread")):
        if task_id is not None and not _TASK_ID.fullmatch(str(task_id)):
            raise StoreError(f"`{task_id}` is not a task id")
    return row


def unfit(value: Value) -> str:
    """Say why a column cannot carry `value`, or return nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"is `{value}`, not a number"
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "needs more than 64 bits"
    return ""


@singledispatch
def _row(record: object, salt: str) -> Row:
    raise StoreError(f"`{type(record).__name__}` is not a record (salt {len(salt)})")


@_row.register
def _(record: TaskRecord, salt: str) -> Row:
    spec, chosen = record.spec, record.selection
    return Row(
        table="task_row",
        kind="task",
        task_id=record.task_id,
        texts=ERASABLE["task_row"],
        values={
            "task_id": record.task_id,
            "direction": record.direction.value,
            "peer_id": clean(record.peer_id),
            "peer": clean(record.peer),
            "principal": clean(record.principal),
            "session": clean(record.session),
            "project": clean(record.project),
            "idempotency_key": clean(record.idempotency_key),
            "payload_hash": clean(record.payload_hash),
            "worker_incarnation": clean(record.worker_incarnation),
            "rule": _optional(record.rule),
            "runner": clean(spec.runner),
            "profile": spec.profile.value,
            "directory": clean(spec.directory),
            "prompt": clean(spec.prompt),
            "prompt_bytes": len(clean(spec.prompt).encode()),
            "salt": salt,
            "runtime_s": spec.limits.runtime_s,
            "limit_bytes": spec.limits.output_bytes,
            "limit_usd": spec.limits.cost_usd,
            "limit_turns": spec.limits.turns,
            "limit_tokens": spec.limits.tokens,
            "accept": stored_json(list(spec.accept)),
            "origin": stored_json(list(spec.origin)),
            "not_after": micros(spec.not_after),
            "traceparent": clean(spec.traceparent),
            "trace": trace_id(spec.traceparent) or None,
            "follows": spec.follows,
            "artifacts": stored_json(list(spec.artifacts)) if spec.artifacts else None,
            "base": spec.base or None,
            "changes": None if spec.changes is None else stored_json(asdict(spec.changes)),
            "answer_schema": clean(spec.answer_schema) or None,
            "thread": record.thread,
            "turn": record.turn,
            "selection": None if chosen is None else stored_json(asdict(chosen)),
        },
    )


@_row.register
def _(record: StepRecord, salt: str) -> Row:
    numbers = record.kind == "fact" and record.name in KEPT_FACTS
    return Row(
        table="step_row",
        kind=record.kind,
        task_id=record.task_id,
        texts=ERASABLE["step_row"] - ({"data"} if numbers else set[str]()),
        values={
            "salt": salt,
            "task_id": record.task_id,
            "direction": record.direction.value,
            "kind": record.kind,
            "name": clean(record.name),
            "witness": clean(record.witness),
            "code": clean(record.code),
            "reason": clean(record.reason),
            "data": stored_json(record.data),
        },
    )


@_row.register
def _(record: EventRecord, salt: str) -> Row:
    event = record.event
    return Row(
        table="event_row",
        kind="event",
        task_id=record.task_id,
        texts=ERASABLE["event_row"],
        values={
            "task_id": record.task_id,
            "direction": record.direction.value,
            "n": event.seq,
            "event_ts": micros(event.ts),
            "event_kind": clean(event.kind),
            "text": clean(event.text),
            "data": stored_json(event.data),
            "salt": salt,
            "spool_end": record.spool_end,
        },
    )


@_row.register
def _(record: DecisionRecord, salt: str) -> Row:
    texts = _of_task("decision_row", record.task_id)
    return Row(
        table="decision_row",
        kind="decision",
        task_id=record.task_id,
        texts=texts,
        values={
            "salt": salt if texts else None,
            "task_id": record.task_id,
            "direction": record.direction.value,
            "peer_id": clean(record.peer_id),
            "peer": clean(record.peer),
            "principal": clean(record.principal),
            "operation": clean(record.operation),
            "effect": clean(record.effect),
            "rule": _optional(record.rule),
            "reason": clean(record.reason),
            "failed": stored_json(list(record.failed)),
            "policy_sha256": clean(record.policy_sha256),
        },
    )


@_row.register
def _(record: ResultRecord, salt: str) -> Row:
    result = record.result
    return Row(
        table="result_row",
        kind="result",
        task_id=record.task_id,
        texts=ERASABLE["result_row"],
        values={
            "task_id": record.task_id,
            "direction": record.direction.value,
            "state": result.state.value,
            "witness": clean(result.witness),
            "exit_code": result.exit_code,
            "text": clean(result.text),
            "error": clean(result.error),
            "salt": salt,
            "code": clean(result.code),
            "output_bytes": result.output_bytes,
            "output_kept": result.output_kept,
            "output_sha256": clean(result.output_sha256),
            "truncated": result.truncated,
            "cost_usd": None if result.usage.cost_usd is None else float(result.usage.cost_usd),
            "tokens_in": result.usage.tokens_in,
            "tokens_out": result.usage.tokens_out,
            "turns": result.usage.turns,
            "runner_version": clean(result.runner_version),
            "profile_enforced": clean(result.profile_enforced),
            "credential": clean(result.credential),
            "processes_left": result.processes_left,
            "started_at": None if result.started_at is None else micros(result.started_at),
            "ended_at": None if result.ended_at is None else micros(result.ended_at),
            "follow_up": clean(result.follow_up),
            "follow_up_until": (
                None if result.follow_up_until is None else micros(result.follow_up_until)
            ),
            "redacted": result.redacted or None,
            "basis": stored_json(result.basis) if result.basis else None,
            "patch": stored_json(result.patch) if result.patch else None,
            "artifacts": stored_json(result.artifacts) if result.artifacts else None,
            "evidence": stored_json(result.evidence) if result.evidence else None,
            "answer": clean(result.answer) or None,
            "extra": stored_json(result.extra) if result.extra else None,
            "worker_signature": clean(record.worker_signature),
            "caller_signature": clean(record.caller_signature),
        },
    )


@_row.register
def _(record: ReceiptRecord, salt: str) -> Row:
    # A head is signed over a hash, which no text of a task can be guessed by.
    texts = _of_task("receipt_row", record.task_id if record.kind == "result_ack" else None)
    return Row(
        table="receipt_row",
        kind="receipt",
        task_id=record.task_id,
        texts=texts,
        values={
            "salt": salt if texts else None,
            "task_id": record.task_id,
            "peer_id": clean(record.peer_id),
            "peer": clean(record.peer),
            "receipt_kind": record.kind,
            "head_seq": record.head_seq,
            "head_hash": clean(record.head_hash),
            "signature": clean(record.signature),
        },
    )


@_row.register
def _(record: TrustRecord, salt: str) -> Row:
    del salt
    return Row(
        table="trust_row",
        kind="trust",
        task_id=None,
        values={
            "peer_id": clean(record.peer_id),
            "peer": clean(record.peer),
            "key": clean(record.key),
            "trusted": record.trusted,
            "decided_by": clean(record.by),
        },
    )


@_row.register
def _(record: AuditRecord, salt: str) -> Row:
    texts = _of_task("audit_row", record.task_id)
    return Row(
        table="audit_row",
        kind=clean(record.kind),
        task_id=record.task_id,
        texts=texts,
        values={
            "salt": salt if texts else None,
            "task_id": record.task_id,
            "kind": clean(record.kind),
            "data": stored_json(record.data),
        },
    )


def _of_task(table: str, task_id: str | None) -> frozenset[str]:
    return ERASABLE[table] if task_id else frozenset()


def _optional(text: str | None) -> str | None:
    return None if text is None else clean(text)
