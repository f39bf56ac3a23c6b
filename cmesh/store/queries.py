"""Reading back: tasks, events, counts. Every function takes a cursor and only reads.

Times are read as microseconds: DuckDB's own conversion loads a time zone database.
"""

from collections.abc import Sequence
from datetime import datetime

from cmesh.model import TERMINAL, DayUse, Direction, Event, NodeId, TaskId, TaskState
from cmesh.question import QUESTION_MARK
from cmesh.store.chain import from_micros
from cmesh.store.drafts import drafts
from cmesh.store.exchange import Reader
from cmesh.store.records import TaskSnapshot
from cmesh.store.rows import event_of, read_rows

__all__ = [
    "accepted_since",
    "columns",
    "events",
    "exists",
    "followers",
    "groups",
    "hash_at",
    "idempotent",
    "keys",
    "last_events",
    "listed",
    "prefixed",
    "questions",
    "snapshots",
    "unfinished",
    "used_since",
]


_ENDED = ", ".join(f"'{state.value}'" for state in sorted(TERMINAL))
_UUID_HEX = 32


def unfinished(cursor: Reader) -> list[TaskId]:
    """Return the tasks that have not ended, or whose end the caller has not acknowledged."""
    rows = read_rows(
        cursor,
        f"""
        WITH step AS (
          SELECT task_id, seq, kind, name FROM step_row
          UNION ALL SELECT task_id, seq, 'state', state FROM result_row
        ), now_at AS (
          SELECT task_id, arg_max(name, seq) FILTER (kind = 'state') AS state,
            bool_or(kind = 'fact' AND name = 'acknowledged') AS acknowledged
          FROM step GROUP BY task_id
        )
        SELECT t.task_id::VARCHAR AS task_id FROM task_row t LEFT JOIN now_at n USING (task_id)
        WHERE coalesce(n.state NOT IN ({_ENDED}), true)
          OR (t.direction = 'in' AND NOT coalesce(n.acknowledged, false))
        ORDER BY t.seq""",  # noqa: S608  # built from constants
    )
    return [TaskId(row["task_id"]) for row in rows]


def listed(
    cursor: Reader,
    *,
    direction: Direction | None = None,
    states: Sequence[TaskState] | None = None,
    session: str | None = None,
    limit: int,
    now: datetime | None = None,
) -> list[TaskId]:
    """Return ids, newest first; with `states`, as of `now`."""
    where, values = ["true"], list[object]()
    if direction is not None:
        values.append(direction.value)
        where.append(f"direction = ${len(values)}")
    if session is not None:
        values.append(session)
        where.append(f"session = ${len(values)}")
    if states is not None:
        values.append([state.value for state in states])
        values.append(None if now is None else now.isoformat())
        state = f"if(question_until > ${len(values)}::TIMESTAMPTZ, 'waiting_input', 'succeeded')"
        state = f"if(question_until IS NULL, state, {state})"
        where.append(f"list_contains(${len(values) - 1}::VARCHAR[], {state})")
    # Without a filter on states the view's joins over all events are not needed.
    source = "task_row" if states is None else "tasks"
    rows = read_rows(
        cursor,
        f"SELECT task_id::VARCHAR AS task_id FROM {source} WHERE {' AND '.join(where)}"  # noqa: S608
        f" ORDER BY seq DESC LIMIT {int(limit)}",
        values,
    )
    return [TaskId(row["task_id"]) for row in rows]


def snapshots(
    cursor: Reader,
    *,
    direction: Direction | None,
    states: Sequence[TaskState] | None,
    session: str | None,
    limit: int,
    now: datetime,
) -> list[TaskSnapshot]:
    """Return tasks, newest first; their states as of `now`."""
    ids = listed(cursor, direction=direction, states=states, session=session, limit=limit, now=now)
    return [draft.snapshot() for draft in drafts(cursor, ids)]


def events(cursor: Reader, task_id: TaskId, *, after: int, limit: int) -> list[Event]:
    """Return events numbered above `after`, oldest first."""
    rows = read_rows(
        cursor,
        f"SELECT n, epoch_us(event_ts) AS ts, event_kind, text, data::VARCHAR AS data"  # noqa: S608
        f" FROM event_row WHERE task_id = $1::UUID AND n > $2 ORDER BY n LIMIT {int(limit)}",
        [task_id, after],
    )
    return [event_of(row) for row in rows]


def last_events(cursor: Reader, task_id: TaskId, limit: int) -> list[Event]:
    """Return the latest events, oldest first."""
    rows = read_rows(
        cursor,
        f"SELECT n, epoch_us(event_ts) AS ts, event_kind, text, data::VARCHAR AS data"  # noqa: S608
        f" FROM event_row WHERE task_id = $1::UUID ORDER BY n DESC LIMIT {int(limit)}",
        [task_id],
    )
    return [event_of(row) for row in reversed(rows)]


def prefixed(cursor: Reader, prefix: str, limit: int) -> list[TaskId]:
    """Return ids that start or end with `prefix`, newest first; looks through all of them.

    Ids of one minute start alike (UUIDv7), so a person tells them apart by their ends.
    """
    digits = prefix.replace("-", "").lower()
    if len(digits) > _UUID_HEX or any(digit not in "0123456789abcdef" for digit in digits):
        return []
    rows = read_rows(
        cursor,
        "SELECT task_id::VARCHAR AS task_id FROM task_row"  # noqa: S608  # limit is a number
        " WHERE task_id BETWEEN $1::UUID AND $2::UUID OR ends_with(task_id::VARCHAR, $3)"
        f" ORDER BY seq DESC LIMIT {int(limit)}",
        [digits.ljust(_UUID_HEX, "0"), digits.ljust(_UUID_HEX, "f"), prefix.lower()],
    )
    ids = [str(row["task_id"]) for row in rows]
    return [TaskId(i) for i in ids if i.startswith(prefix.lower()) or i.endswith(prefix.lower())]


def idempotent(cursor: Reader, key: str) -> TaskId | None:
    """Return the task this node asked for with a key."""
    rows = read_rows(
        cursor,
        "SELECT task_id::VARCHAR AS task_id FROM task_row"
        " WHERE direction = 'out' AND idempotency_key = $1",
        [key],
    )
    return TaskId(rows[0]["task_id"]) if rows else None


def exists(cursor: Reader, task_id: TaskId) -> bool:
    """Say whether a task has this id."""
    return bool(
        read_rows(cursor, "SELECT 1 AS one FROM task_row WHERE task_id = $1::UUID", [task_id])
    )


def keys(cursor: Reader) -> list[tuple[str, str]]:
    """Return (task id, idempotency key) of every task."""
    rows = read_rows(
        cursor,
        "SELECT task_id::VARCHAR AS task_id, CASE WHEN direction = 'out' THEN idempotency_key"
        " ELSE '' END AS key FROM task_row",
    )
    return [(row["task_id"], row["key"]) for row in rows]


def accepted_since(cursor: Reader, since: datetime) -> list[tuple[NodeId, TaskId, datetime]]:
    """Return the inbound tasks stored since, without those that were denied."""
    rows = read_rows(
        cursor,
        "SELECT peer_id, task_id::VARCHAR AS task_id, epoch_us(ts) AS ts FROM task_row"
        " WHERE direction = 'in' AND ts >= $1::TIMESTAMPTZ AND task_id NOT IN"
        " (SELECT task_id FROM step_row WHERE kind = 'state' AND name = 'denied')",
        [since.isoformat()],
    )
    return [(row["peer_id"], row["task_id"], from_micros(row["ts"])) for row in rows]


def used_since(cursor: Reader, since: datetime) -> list[tuple[NodeId, int, DayUse]]:
    """Return (peer, hour since 1970, what its tasks that ended here in it used); as `charge`."""
    rows = read_rows(
        cursor,
        "WITH fact AS (SELECT task_id, arg_max(data, seq) AS granted FROM step_row"
        " WHERE kind = 'fact' AND name = 'limits' GROUP BY task_id),"
        " ran AS (SELECT DISTINCT task_id FROM step_row WHERE kind = 'state' AND name = 'running'"
        " UNION SELECT task_id FROM event_row WHERE event_kind = 'running'),"
        " given AS (SELECT t.task_id, t.peer_id, r.ts, r.cost_usd, r.tokens_in, r.tokens_out,"
        "  r.started_at, r.ended_at,"
        "  if(f.granted IS NULL, t.limit_usd, (f.granted->>'cost_usd')::DOUBLE) AS most_usd,"
        "  if(f.granted IS NULL, t.limit_tokens, (f.granted->>'tokens')::BIGINT) AS most_tokens,"
        "  if(f.granted IS NULL, t.runtime_s, (f.granted->>'runtime_s')::BIGINT) AS most_s"
        "  FROM result_row r JOIN task_row t ON t.task_id = r.task_id AND t.direction = 'in'"
        "  LEFT JOIN fact f ON f.task_id = t.task_id LEFT JOIN ran ON ran.task_id = t.task_id"
        "  WHERE r.direction = 'in' AND r.ts >= $1::TIMESTAMPTZ AND (r.started_at IS NOT NULL"
        "   OR ran.task_id IS NOT NULL OR r.state = 'interrupted'))"
        " SELECT peer_id, (epoch_us(ts) // 3600000000)::BIGINT AS hour,"
        "  sum(coalesce(cost_usd, most_usd, 0))::DOUBLE AS usd,"
        "  sum(if(tokens_in IS NULL OR tokens_out IS NULL, greatest(coalesce(most_tokens, 0),"
        "   coalesce(tokens_in, 0) + coalesce(tokens_out, 0)), tokens_in + tokens_out))::BIGINT"
        "   AS tokens,"
        "  sum(if(started_at IS NULL OR ended_at IS NULL, most_s,"
        "   greatest(0, epoch(ended_at) - epoch(started_at))))::DOUBLE AS seconds"
        " FROM given GROUP BY ALL",
        [since.isoformat()],
    )
    return [
        (
            NodeId(row["peer_id"]),
            row["hour"],
            DayUse(cost_usd=row["usd"], tokens=row["tokens"], runtime_s=row["seconds"]),
        )
        for row in rows
    ]


def followers(cursor: Reader) -> list[tuple[TaskId, TaskId]]:
    """Return (task, the task that follows it) of every follow-up turn, oldest first."""
    rows = read_rows(
        cursor,
        "SELECT follows::VARCHAR AS follows, task_id::VARCHAR AS task_id FROM task_row"
        " WHERE follows IS NOT NULL ORDER BY seq",
    )
    return [(TaskId(row["follows"]), TaskId(row["task_id"])) for row in rows]


def questions(cursor: Reader) -> list[tuple[TaskId, datetime]]:
    """Return (task, until when a reply is possible) of questions without a turn that has ended."""
    rows = read_rows(
        cursor,
        "SELECT task_id::VARCHAR AS task_id, epoch_us(follow_up_until) AS until FROM result_row"
        " WHERE state = 'succeeded' AND follow_up = 'possible' AND follow_up_until IS NOT NULL"
        " AND contains(text, $1) AND task_id NOT IN (SELECT t.follows"
        "  FROM task_row t JOIN result_row r ON r.task_id = t.task_id"
        "  WHERE t.follows IS NOT NULL AND r.state NOT IN ('denied', 'expired'))",
        [QUESTION_MARK],
    )
    return [(TaskId(row["task_id"]), from_micros(row["until"])) for row in rows]


def groups(cursor: Reader) -> list[tuple[str, TaskId]]:
    """Return (group, task) of every task that was asked for in a group, oldest first."""
    rows = read_rows(
        cursor,
        "SELECT selection ->> 'group' AS of_group, task_id::VARCHAR AS task_id FROM task_row"
        " WHERE selection ->> 'group' <> '' ORDER BY seq",
    )
    return [(row["of_group"], TaskId(row["task_id"])) for row in rows]


def hash_at(cursor: Reader, seq: int) -> str | None:
    """Return a row's hash in hex, or None when there is no such row."""
    rows = read_rows(cursor, "SELECT hex(h) AS h FROM log WHERE seq = ?", [seq])
    return rows[0]["h"].lower() if rows else None


def columns(cursor: Reader) -> dict[str, list[str]]:
    """Return the columns of each view for people, in their order."""
    rows = read_rows(
        cursor,
        "SELECT v.view_name, list(c.column_name ORDER BY c.column_index) AS names"
        " FROM duckdb_columns() c JOIN duckdb_views() v ON v.view_name = c.table_name"
        " WHERE NOT v.internal GROUP BY v.view_name ORDER BY v.view_name",
    )
    return {str(row["view_name"]): list(row["names"]) for row in rows}
