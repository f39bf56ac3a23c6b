"""Reading tasks whole: every row of some tasks, folded. Takes a cursor and only reads.

DuckDB plans each statement anew, by the column; a plan with an ORDER BY costs half as much again. So a
task takes four statements, a fifth only where that can matter, and rows are put in order here.
"""

import json
from collections.abc import Callable, Sequence
from typing import cast

from cmesh.model import TaskId
from cmesh.store.chain import from_micros
from cmesh.store.exchange import Reader
from cmesh.store.fold import PROGRESS, Draft
from cmesh.store.records import Record
from cmesh.store.rows import Row, moment_of, read_rows, result_record, step_record, task_record

__all__ = ["drafts"]

_PROGRESS = ", ".join(f"'{kind}'" for kind in sorted(PROGRESS))
_TIMES = {
    "task_row": ("ts", "not_after"),
    "step_row": ("ts",),
    "result_row": ("ts", "started_at", "ended_at", "follow_up_until"),
}


def drafts(cursor: Reader, ids: Sequence[TaskId]) -> list[Draft]:
    """Return the tasks with these ids that exist, in the order given."""
    if not ids:
        return []
    made: dict[str, Draft] = {}
    for row in _of_tasks(cursor, "task_row", ids):
        record = task_record(row)
        made[record.task_id] = Draft.start(record, seq=row["seq"], ts=from_micros(row["ts"]))
    rows: list[tuple[Row, Callable[[Row], Record]]] = [
        *((row, step_record) for row in _of_tasks(cursor, "step_row", ids)),
        *((row, result_record) for row in _of_tasks(cursor, "result_row", ids)),
    ]
    for row, build in sorted(rows, key=lambda pair: pair[0]["seq"]):
        draft = made.get(row["task_id"])
        if draft is not None:
            draft.add(build(row), from_micros(row["ts"]))
    _add_receipts(cursor, made)
    _add_events(cursor, made)
    return [made[task_id] for task_id in ids if task_id in made]


def _of_tasks(cursor: Reader, table: str, ids: Sequence[TaskId]) -> list[Row]:
    """Return rows of some tasks, in any order, with ids as text and times as microseconds."""
    replaced = ", ".join(f"epoch_us({column}) AS {column}" for column in _TIMES[table])
    condition, value = _one_of(ids)
    return read_rows(
        cursor,
        f"SELECT * REPLACE (task_id::VARCHAR AS task_id, {replaced}) FROM {table}"  # noqa: S608
        f" WHERE {condition}",
        [value],
    )


def _add_receipts(cursor: Reader, made: dict[str, Draft]) -> None:
    """Add the callers' signatures that came after the results: those in results stand first."""
    lacking = [TaskId(task_id) for task_id, draft in made.items() if not draft.caller_signature]
    if not lacking:
        return
    condition, value = _one_of(lacking)
    rows = read_rows(
        cursor,
        "SELECT task_id::VARCHAR AS task_id, seq, signature FROM receipt_row"  # noqa: S608
        f" WHERE receipt_kind = 'result_ack' AND {condition}",
        [value],
    )
    for row in sorted(rows, key=lambda row: cast("int", row["seq"])):
        made[row["task_id"]].acknowledgement = row["signature"] or ""


def _add_events(cursor: Reader, made: dict[str, Draft]) -> None:
    if not made:
        return
    condition, value = _one_of([TaskId(task_id) for task_id in made])
    # Of one task there is one group, empty or not; to find that out costs a third.
    grouped = "" if len(made) == 1 else "GROUP BY task_id"
    rows = read_rows(
        cursor,
        f"""
        SELECT any_value(task_id)::VARCHAR AS task_id, max(n) AS n, epoch_us(arg_max(event_ts, n)) AS ts,
          max(spool_end) AS spool_end,
          arg_max(event_kind, n) FILTER (event_kind IN ({_PROGRESS})) AS progress,
          epoch_us(arg_min(event_ts, n) FILTER (event_kind = 'running')) AS ran,
          arg_min(data, n) FILTER (event_kind = 'running') AS told
        FROM event_row WHERE {condition} {grouped}""",  # noqa: S608
        [value],
    )
    for row in rows:
        if row["task_id"] is None:
            continue
        draft = made[row["task_id"]]
        draft.last_event = max(draft.last_event, row["n"])
        draft.last_event_ts = from_micros(row["ts"])
        draft.spool_end = row["spool_end"]
        draft.progress = row["progress"] or draft.progress
        draft.ran_there = moment_of(row["ran"])
        told = cast("dict[str, object]", json.loads(row["told"] or "{}"))
        draft.containment = str(told.get("containment", ""))
        draft.enforcement = str(told.get("enforcement", ""))


def _one_of(ids: Sequence[TaskId]) -> tuple[str, object]:
    """Return a condition on `task_id` and its value.

    One id is compared, and not joined with: then DuckDB skips the blocks that cannot have it.
    """
    if len(ids) == 1:
        return "task_id = $1::UUID", ids[0]
    return "task_id IN (SELECT unnest($1::UUID[]))", list(ids)
