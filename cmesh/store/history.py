"""Reading tasks of any age: found by words, the rows of one, the figures of a span.

As in `cmesh.store.queries`, every function takes a cursor and only reads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cmesh.model import TERMINAL, Direction, TaskId, TaskState
from cmesh.store.chain import from_micros
from cmesh.store.drafts import drafts
from cmesh.store.exchange import Reader
from cmesh.store.fold import PROGRESS
from cmesh.store.records import TaskSnapshot
from cmesh.store.rows import Row, read_rows

__all__ = [
    "Decided",
    "Figures",
    "History",
    "Step",
    "Wanted",
    "figures_since",
    "found",
    "history_of",
]

_ENDS = ", ".join(f"'{state.value}'" for state in sorted(TERMINAL))
_PROGRESS = ", ".join(f"'{kind}'" for kind in sorted(PROGRESS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which tasks; what is empty or None is not asked for.

    Attributes:
        end: the state it ended in, by the log; TERMINAL ones only.
        peer: name up to its first dot, whole name, or node id.
        text: a part of the prompt, whatever its case.
        before: tasks whose own row comes before this one.
    """

    end: TaskState | None = None
    direction: Direction | None = None
    peer: str = ""
    runner: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    before: int = 0

    def fits(self, task: TaskSnapshot) -> bool:
        """Say whether a task in memory is wanted, but for its state."""
        record = task.record
        peers = {record.peer_id, record.peer.lower(), record.peer.partition(".")[0].lower()}
        return (
            self.direction in {None, record.direction}
            and (not self.peer or self.peer in peers or self.peer.lower() in peers)
            and self.runner in {"", record.spec.runner}
            and self.text.lower() in record.spec.prompt.lower()
            and (self.since is None or task.created_at >= self.since)
            and (self.until is None or task.created_at < self.until)
            and (not self.before or task.seq < self.before)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A row about a task's state, or a fact; `told`: a worker's event, by the worker's clock."""

    seq: int
    ts: datetime
    kind: str
    name: str
    witness: str = ""
    code: str = ""
    reason: str = ""
    told: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision about a task; `failed` are the conditions that did not hold."""

    seq: int
    ts: datetime
    operation: str
    effect: str
    rule: str | None
    reason: str
    failed: Sequence[Mapping[str, str]]
    policy_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the log has of one task."""

    steps: Sequence[Step]
    decisions: Sequence[Decided]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Counts and sums of a span; `untold`: ends without a cost."""

    asked: int
    worked: int
    ended: Mapping[str, int]
    cost_usd: float | None
    tokens: int | None
    untold: int


def found(cursor: Reader, wanted: Wanted, limit: int) -> list[TaskSnapshot]:
    """Return the wanted tasks, newest first."""
    where, values = ["true"], list[object]()
    for condition, given in _conditions(wanted):
        for value in given:
            values.append(value)
            condition = condition.replace("?", f"${len(values)}", 1)  # noqa: PLW2901
        where.append(condition)
    rows = read_rows(
        cursor,
        f"SELECT task_id::VARCHAR AS task_id FROM task_row WHERE {' AND '.join(where)}"  # noqa: S608
        f" ORDER BY seq DESC LIMIT {int(limit)}",
        values,
    )
    ids = [TaskId(row["task_id"]) for row in rows]
    return [draft.snapshot() for draft in drafts(cursor, ids)]


def _conditions(wanted: Wanted) -> list[tuple[str, tuple[object, ...]]]:
    """Return what is asked of a row of tasks, each with the values of its marks."""
    name = wanted.peer.lower()
    since, until = (None if at is None else at.isoformat() for at in (wanted.since, wanted.until))
    # An end is final: whichever row says it, says it for good.
    ended = (
        "task_id IN (SELECT task_id FROM result_row WHERE state = ? UNION ALL"
        " SELECT task_id FROM step_row WHERE kind = 'state' AND name = ?)"
    )
    peer = "(peer_id = ? OR lower(peer) = ? OR split_part(lower(peer), '.', 1) = ?)"
    asked: list[tuple[object, str, tuple[object, ...]]] = [
        (wanted.direction, "direction = ?", (wanted.direction,)),
        (name, peer, (wanted.peer, name, name)),
        (wanted.runner, "runner = ?", (wanted.runner,)),
        (wanted.text, "contains(lower(prompt), ?)", (wanted.text.lower(),)),
        (since, "ts >= ?::TIMESTAMPTZ", (since,)),
        (until, "ts < ?::TIMESTAMPTZ", (until,)),
        (wanted.before, "seq < ?", (wanted.before,)),
        (wanted.end, ended, (wanted.end, wanted.end)),
    ]
    return [
        (condition, tuple(map(_plain, given))) for is_asked, condition, given in asked if is_asked
    ]


def _plain(value: object) -> object:
    return value.value if isinstance(value, Direction | TaskState) else value


def history_of(cursor: Reader, task_id: TaskId) -> History:
    """Return the rows about one task, in the order of the log."""
    rows = read_rows(
        cursor,
        f"""
        SELECT seq, epoch_us(ts) AS ts, kind, name, witness, code, reason, false AS told
          FROM step_row WHERE task_id = $1::UUID
        UNION ALL
        SELECT seq, epoch_us(ts), 'state', state, witness, code, coalesce(error, ''), false
          FROM result_row WHERE task_id = $1::UUID
        UNION ALL
        SELECT seq, epoch_us(event_ts), 'state', event_kind, '', '', '', true
          FROM event_row WHERE task_id = $1::UUID AND direction = 'out'
            AND event_kind IN ({_PROGRESS})
        ORDER BY seq""",  # noqa: S608  # built from constants
        [task_id],
    )
    steps = [Step(**_at(row)) for row in rows]
    rows = read_rows(
        cursor,
        "SELECT seq, epoch_us(ts) AS ts, operation, effect, rule, reason, failed, policy_sha256"
        " FROM decision_row WHERE task_id = $1::UUID ORDER BY seq",
        [task_id],
    )
    return History(steps=steps, decisions=[_decided(row) for row in rows])


def figures_since(cursor: Reader, since: datetime) -> Figures:
    """Return what was asked for, taken and ended since then."""
    moment = [since.isoformat()]
    [begun] = read_rows(
        cursor,
        "SELECT count(*) FILTER (direction = 'out') AS asked,"
        " count(*) FILTER (direction = 'in') AS worked FROM task_row WHERE ts >= $1::TIMESTAMPTZ",
        moment,
    )
    ended = read_rows(
        cursor,
        f"""
        SELECT state, count(*) AS n FROM (
          SELECT DISTINCT task_id, state FROM result_row WHERE ts >= $1::TIMESTAMPTZ
          UNION
          SELECT DISTINCT task_id, name FROM step_row
          WHERE kind = 'state' AND name IN ({_ENDS}) AND ts >= $1::TIMESTAMPTZ
        ) GROUP BY state ORDER BY state""",  # noqa: S608  # built from constants
        moment,
    )
    [bill] = read_rows(
        cursor,
        "SELECT CAST(sum(cost_usd) AS DOUBLE) AS usd,"
        " CAST(sum(tokens_in) + sum(tokens_out) AS BIGINT) AS tokens,"
        " count(*) FILTER (cost_usd IS NULL AND started_at IS NOT NULL) AS untold"
        " FROM result_row WHERE ts >= $1::TIMESTAMPTZ",
        moment,
    )
    return Figures(
        asked=begun["asked"],
        worked=begun["worked"],
        ended={row["state"]: row["n"] for row in ended},
        cost_usd=bill["usd"],
        tokens=bill["tokens"],
        untold=bill["untold"],
    )


def _decided(row: Row) -> Decided:
    row["failed"] = json.loads(row["failed"] or "[]")
    return Decided(**_at(row))


def _at(row: Row) -> Row:
    row["ts"] = from_micros(row["ts"])
    return row
