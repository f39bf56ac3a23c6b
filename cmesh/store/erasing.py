"""Erasing texts in the database: which rows are due, and taking their texts out.

For the database process. What is erased is said by a row of the chain first (`TEXTS_ERASED`);
the database does it when that row is brought in, so no crash comes between the two.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

from cmesh.model import TERMINAL, Direction, NodeId, TaskId
from cmesh.store import queries
from cmesh.store.chain import from_micros
from cmesh.store.exchange import Reader
from cmesh.store.rows import read_rows
from cmesh.store.texts import (
    ERASABLE,
    FORGOTTEN,
    KEPT_FACTS,
    SALTED_SINCE,
    ranges,
    reseal,
    sealed,
)

__all__ = ["Batch", "Candidate", "batch", "due", "erase", "forgotten", "found", "used"]

_ENDED = ", ".join(f"'{state.value}'" for state in sorted(TERMINAL))
_KEPT = ", ".join(f"'{name}'" for name in sorted(KEPT_FACTS))


class _Writer(Protocol):
    """What of a DuckDB connection is used here."""

    def execute(self, query: str, parameters: object = ..., /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A task with rows that were not erased.

    Attributes:
        ended_at: when this node knew of its end; None = somebody still needs its texts: it has
            not ended, its caller has not acknowledged the end, or a turn after it goes on.
        rows: how many of its rows are as they were written.
    """

    task_id: TaskId
    direction: Direction
    peer_id: NodeId
    peer: str
    created_at: datetime
    state: str
    ended_at: datetime | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows to erase, as a row `TEXTS_ERASED` of the chain tells of them.

    Attributes:
        rows: their numbers as `[first, last]` pairs.
        resealed: rows of before version 3, each with the digest of what is left of its text.
        count: how many rows.
        tasks: the tasks they are of.
    """

    rows: list[list[int]]
    resealed: list[tuple[int, str]]
    count: int
    tasks: tuple[TaskId, ...]


def found(
    cursor: Reader,
    *,
    ids: Sequence[TaskId] = (),
    peers: Sequence[NodeId] = (),
    ended_before: datetime | None = None,
) -> list[Candidate]:
    """Return tasks that have texts, oldest first, by every condition that is given.

    Open tasks are among them where `ended_before` is not given.
    """
    where, values = ["true"], list[object]([_needed(cursor)])
    if ids:
        values.append(list(ids))
        where.append(f"t.task_id IN (SELECT unnest(${len(values)}::UUID[]))")
    if peers:
        values.append(list(peers))
        where.append(f"t.peer_id IN (SELECT unnest(${len(values)}::VARCHAR[]))")
    if ended_before is not None:
        values.append(ended_before.isoformat())
        where.append(f"e.ended < ${len(values)}::TIMESTAMPTZ")
    rows = read_rows(
        cursor,
        f"""
        WITH has AS (
          SELECT task_id, count(*) AS n FROM log ANTI JOIN erased USING (seq)
          WHERE task_id IS NOT NULL GROUP BY task_id
        ), step AS (
          SELECT task_id, seq, ts, name FROM step_row WHERE kind = 'state'
          UNION ALL SELECT task_id, seq, ts, state FROM result_row
        ), e AS (
          SELECT task_id, arg_max(name, seq) AS state, min(ts) FILTER (name IN ({_ENDED})) AS ended
          FROM step GROUP BY task_id
        )
        SELECT t.task_id::VARCHAR AS task_id, t.direction, t.peer_id, t.peer,
          epoch_us(t.ts) AS ts, coalesce(e.state, 'queued') AS state,
          CASE WHEN t.task_id NOT IN (SELECT unnest($1::UUID[])) THEN epoch_us(e.ended) END AS ended,
          has.n AS n
        FROM task_row t JOIN has USING (task_id) LEFT JOIN e USING (task_id)
        WHERE {" AND ".join(where)} ORDER BY t.seq""",  # noqa: S608  # built from constants
        values,
    )
    return [
        Candidate(
            task_id=TaskId(row["task_id"]),
            direction=Direction(row["direction"]),
            peer_id=NodeId(row["peer_id"]),
            peer=row["peer"],
            created_at=from_micros(row["ts"]),
            state=row["state"],
            ended_at=None if row["ended"] is None else from_micros(row["ended"]),
            rows=row["n"],
        )
        for row in rows
    ]


def due(cursor: Reader, ended_before: datetime | None) -> list[TaskId]:
    """Return tasks whose texts are to go: those somebody asked to forget, and those past a time.

    One that was erased before is among them when a row of it came later. One that is open, as a
    store that was put back may have it, is not among them before it has ended.
    """
    asked = read_rows(
        cursor,
        "SELECT DISTINCT task_id::VARCHAR AS task_id FROM log ANTI JOIN erased USING (seq)"
        " WHERE task_id IN (SELECT unnest(from_json(data->'$.tasks', '[\"UUID\"]'))"
        "  FROM audit_row WHERE kind = $1) AND task_id NOT IN (SELECT unnest($2::UUID[]))",
        [FORGOTTEN, _needed(cursor)],
    )
    old = [] if ended_before is None else found(cursor, ended_before=ended_before)
    ids = [TaskId(row["task_id"]) for row in asked]
    ids += [one.task_id for one in old if one.ended_at is not None]
    return list(dict.fromkeys(ids))


def forgotten(cursor: Reader) -> list[TaskId]:
    """Return every task that somebody asked to forget."""
    rows = read_rows(
        cursor,
        "SELECT unnest(from_json(data->'$.tasks', '[\"UUID\"]'))::VARCHAR AS task_id"
        " FROM audit_row WHERE kind = $1",
        [FORGOTTEN],
    )
    return [TaskId(row["task_id"]) for row in rows]


def batch(cursor: Reader, ids: Sequence[TaskId], limit: int) -> Batch | None:
    """Return the first rows of these tasks that were not erased, at most `limit`; None = none."""
    rows = read_rows(
        cursor,
        "SELECT l.seq, l.task_id::VARCHAR AS task_id,"  # noqa: S608  # limit is a number
        f" CASE WHEN (l.canon->>'$.v')::INTEGER < {SALTED_SINCE} AND l.kind <> 'event'"
        " THEN l.canon END AS canon"
        " FROM log l ANTI JOIN erased USING (seq)"
        f" WHERE l.task_id IN (SELECT unnest($1::UUID[])) ORDER BY l.seq LIMIT {int(limit)}",
        [list(ids)],
    )
    if not rows:
        return None
    return Batch(
        rows=ranges(row["seq"] for row in rows),
        resealed=[
            (row["seq"], sealed(reseal(row["canon"]))) for row in rows if row["canon"] is not None
        ],
        count=len(rows),
        tasks=tuple(dict.fromkeys(TaskId(row["task_id"]) for row in rows)),
    )


def used(cursor: Reader, ended_after: datetime | None) -> frozenset[str]:
    """Return the digests of files that rows name of tasks that are open, or ended after a time."""
    values: list[object] = [_needed(cursor)]
    late = "true"
    if ended_after is not None:
        values.append(ended_after.isoformat())
        late = (
            "task_id IN (SELECT task_id FROM result_row WHERE ts >= $2::TIMESTAMPTZ UNION ALL"
            " SELECT task_id FROM step_row WHERE kind = 'state' AND ts >= $2::TIMESTAMPTZ)"
        )
    named = " UNION ALL ".join(
        f"SELECT unnest(regexp_extract_all(concat_ws(' ', {columns}), '[0-9a-f]{{64}}')) AS sha"  # noqa: S608
        f" FROM {table} WHERE {late} OR task_id IN (SELECT unnest($1::UUID[]))"
        for table, columns in _NAMES_FILES.items()
    )
    rows = cursor.execute(f"SELECT DISTINCT sha FROM ({named})", values).fetchall()  # noqa: S608
    return frozenset(str(sha) for (sha,) in rows)


def _needed(cursor: Reader) -> list[TaskId]:
    """Return the tasks that are open, and those whose next turn is: it goes on from their patch."""
    ids = queries.unfinished(cursor)
    before = read_rows(
        cursor,
        "SELECT follows::VARCHAR AS task_id FROM task_row"
        " WHERE follows IS NOT NULL AND task_id IN (SELECT unnest($1::UUID[]))",
        [ids],
    )
    return [*ids, *(TaskId(row["task_id"]) for row in before)]


_NAMES_FILES = {
    "task_row": "changes::VARCHAR, artifacts::VARCHAR",
    "step_row": "data::VARCHAR",
    "result_row": "output_sha256, patch::VARCHAR, artifacts::VARCHAR, evidence::VARCHAR,"
    " extra::VARCHAR",
}


def erase(connection: _Writer, by_seq: int, told: str) -> None:
    """Take out the texts of the rows that a row of the chain names, inside a transaction."""
    named = cast("dict[str, Any]", json.loads(told))
    runs = cast("list[list[int]]", named.get("rows", []))
    firsts, lasts = [a for a, _ in runs], [b for _, b in runs]
    connection.execute(
        "INSERT INTO erased SELECT unnest(range(a, b + 1)), $3 FROM"
        " (SELECT unnest($1::BIGINT[]) AS a, unnest($2::BIGINT[]) AS b)",
        [firsts, lasts, by_seq],
    )
    for table, columns in ERASABLE.items():
        gone = ", ".join(f"{column} = {_after(table, column)}" for column in sorted(columns))
        only = " AND receipt_kind = 'result_ack'" if table == "receipt_row" else ""
        connection.execute(
            f"UPDATE {table} SET salt = NULL, {gone}"  # noqa: S608  # our own names
            " WHERE task_id IS NOT NULL AND seq IN"
            f" (SELECT seq FROM erased WHERE by_seq = $1){only}",
            [by_seq],
        )
    _reseal(connection, {int(seq): str(sha) for seq, sha in named.get("resealed", ())})


def _after(table: str, column: str) -> str:
    if (table, column) == ("step_row", "data"):
        return f"CASE WHEN kind = 'fact' AND name IN ({_KEPT}) THEN data END"
    return "NULL"


def _reseal(connection: _Writer, wanted: dict[int, str]) -> None:
    if not wanted:
        return
    rows = connection.execute(
        "SELECT seq, canon FROM log WHERE seq IN (SELECT unnest($1::BIGINT[]))", [list(wanted)]
    ).fetchall()
    # One that differs was changed by somebody: it stays for the check to find.
    left = {seq: text for seq, canon in rows if sealed(text := reseal(canon)) == wanted[seq]}
    connection.execute(
        "UPDATE log SET canon = n.canon FROM"
        " (SELECT unnest($1::BIGINT[]) AS seq, unnest($2::VARCHAR[]) AS canon) n"
        " WHERE log.seq = n.seq",
        [list(left), list(left.values())],
    )
