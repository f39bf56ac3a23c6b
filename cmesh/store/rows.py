"""From rows of the database to records: what each column means."""

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from cmesh.model import (
    Changes,
    Direction,
    Event,
    Limits,
    NodeId,
    Profile,
    Result,
    TaskId,
    TaskSpec,
    TaskState,
    Usage,
)
from cmesh.store.chain import from_micros
from cmesh.store.exchange import Reader
from cmesh.store.records import (
    Record,
    Refused,
    ResultRecord,
    Selection,
    StepRecord,
    TaskRecord,
)

__all__ = [
    "Row",
    "event_of",
    "moment_of",
    "read_rows",
    "result_record",
    "step_record",
    "task_record",
]

Row = dict[str, Any]
"""A row of the database by column; the schema says what is in it."""


def read_rows(cursor: Reader, sql: str, values: Sequence[object] = ()) -> list[Row]:
    """Return what a SELECT finds, all of it."""
    cursor.execute(sql, list(values))
    names = [str(column[0]) for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def task_record(row: Row) -> TaskRecord:
    """Return a task as it was asked for."""
    spec = TaskSpec(
        task_id=TaskId(row["task_id"]),
        runner=row["runner"],
        profile=Profile(row["profile"]),
        directory=row["directory"],
        prompt=row["prompt"] or "",
        limits=Limits(
            runtime_s=row["runtime_s"],
            output_bytes=row["limit_bytes"],
            cost_usd=row["limit_usd"],
            turns=row["limit_turns"],
            tokens=row["limit_tokens"],
        ),
        accept=tuple(json.loads(row["accept"] or "[]")),
        origin=tuple(json.loads(row["origin"])),
        not_after=from_micros(row["not_after"]),
        traceparent=row["traceparent"],
        follows=_id(row["follows"]),
        artifacts=tuple(json.loads(row["artifacts"] or "[]")),
        base=row["base"] or "",
        changes=Changes(**json.loads(row["changes"])) if row["changes"] else None,
        answer_schema=row["answer_schema"] or "",
    )
    same = {name: row[name] for name in _SAME}
    same["payload_hash"] = row["payload_hash"] or ""
    return TaskRecord(
        spec=spec,
        direction=Direction(row["direction"]),
        thread=_id(row["thread"]),
        turn=row["turn"] or 1,
        selection=_selection(row["selection"]),
        **same,
    )


_OTHERWISE = {"spec", "direction", "thread", "turn", "selection"}


_SAME = [f.name for f in fields(TaskRecord) if f.name not in _OTHERWISE]


def _selection(text: str | None) -> Selection | None:
    if text is None:
        return None
    told = json.loads(text)
    return Selection(
        where=tuple(told["where"]),
        chosen=told["chosen"],
        group=told["group"],
        peers=tuple(NodeId(peer) for peer in told["peers"]),
        refused=tuple(Refused(**one) for one in told["refused"]),
        also=tuple(TaskId(task) for task in told["also"]),
    )


def step_record(row: Row) -> Record:
    """Return a state or a fact."""
    return StepRecord(
        task_id=TaskId(row["task_id"]),
        direction=Direction(row["direction"]),
        kind=row["kind"],
        name=row["name"],
        witness=row["witness"],
        code=row["code"],
        reason=row["reason"] or "",
        data=_object(row["data"] or "{}"),
    )


def result_record(row: Row) -> Record:
    """Return an end with its signatures."""
    result = Result(
        state=TaskState(row["state"]),
        witness=row["witness"],
        exit_code=row["exit_code"],
        text=row["text"] or "",
        error=row["error"] or "",
        code=row["code"],
        output_bytes=row["output_bytes"],
        output_kept=row["output_kept"],
        output_sha256=row["output_sha256"] or "",
        truncated=row["truncated"],
        usage=Usage(
            cost_usd=row["cost_usd"],
            tokens_in=row["tokens_in"],
            tokens_out=row["tokens_out"],
            turns=row["turns"],
        ),
        runner_version=row["runner_version"],
        profile_enforced=row["profile_enforced"],
        credential=row["credential"],
        processes_left=row["processes_left"],
        started_at=moment_of(row["started_at"]),
        ended_at=moment_of(row["ended_at"]),
        follow_up=row["follow_up"] or "",
        follow_up_until=moment_of(row["follow_up_until"]),
        redacted=row["redacted"] or 0,
        basis=_object(row["basis"] or "{}"),
        patch=_object(row["patch"] or "{}"),
        artifacts=_object(row["artifacts"] or "{}"),
        evidence=_object(row["evidence"] or "{}"),
        answer=row["answer"] or "",
        extra=_object(row["extra"] or "{}"),
    )
    return ResultRecord(
        task_id=TaskId(row["task_id"]),
        direction=Direction(row["direction"]),
        result=result,
        worker_signature=row["worker_signature"] or "",
        caller_signature=row["caller_signature"] or "",
    )


def event_of(row: Row) -> Event:
    """Return an event."""
    return Event(
        seq=row["n"],
        ts=from_micros(row["ts"]),
        kind=row["event_kind"],
        text=row["text"] or "",
        data=_object(row["data"] or "{}"),
    )


def _object(text: str) -> dict[str, object]:
    # Most are empty, and a page of tasks has hundreds of them.
    return {} if text == "{}" else cast("dict[str, object]", json.loads(text))


def _id(value: object) -> TaskId | None:
    return None if value is None else TaskId(str(value))


def moment_of(value: int | None) -> datetime | None:
    """Return a moment from microseconds."""
    return None if value is None else from_micros(value)
