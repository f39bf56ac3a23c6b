"""The eleven questions of `benchmarks.audit`: asked of the views in DuckDB, of the tables in SQLite.

The SQLite text is the best that is known for its tables and indexes: no view stands in its way.
"""

from dataclasses import dataclass

__all__ = ["QUESTIONS", "Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question in both tongues; `{since}` is a moment, as a text or in microseconds."""

    name: str
    duckdb: str
    sqlite: str


# In SQLite a percentile takes two steps: it has no such aggregate.
_P95 = """
WITH d AS (
  SELECT t.runner, t.peer, (r.ended_at - r.started_at) / 1e6 AS s
  FROM result_row r JOIN task_row t ON t.task_id = r.task_id
), n AS (
  SELECT runner, peer, s, row_number() OVER (PARTITION BY runner, peer ORDER BY s) AS i,
    count(*) OVER (PARTITION BY runner, peer) AS many FROM d
)
SELECT runner, peer, min(s) FROM n WHERE i >= 0.95 * many GROUP BY runner, peer ORDER BY 1, 2"""

_WAIT = """
WITH w AS (
  SELECT t.peer, (b.event_ts - a.event_ts) / 1e6 AS s FROM event_row a
  JOIN event_row b ON b.task_id = a.task_id AND b.n = 2 AND b.event_kind = 'running'
  JOIN task_row t ON t.task_id = a.task_id
  WHERE a.n = 1 AND a.event_kind = 'queued'
), n AS (
  SELECT peer, s, row_number() OVER (PARTITION BY peer ORDER BY s) AS i,
    count(*) OVER (PARTITION BY peer) AS many FROM w
)
SELECT peer, min(s) FROM n WHERE i >= 0.5 * many GROUP BY peer ORDER BY 1"""

QUESTIONS = (
    Question(
        name="who did what where, the last 30 days",
        duckdb="SELECT principal, peer, profile, directory, count(*) AS tasks FROM tasks"
        " WHERE created_at >= TIMESTAMPTZ '{since}' GROUP BY ALL ORDER BY tasks DESC, 1, 2, 3, 4 LIMIT 50",
        sqlite="SELECT principal, peer, profile, directory, count(*) AS tasks FROM task_row"
        " WHERE ts >= {since} GROUP BY 1, 2, 3, 4 ORDER BY tasks DESC, 1, 2, 3, 4 LIMIT 50",
    ),
    Question(
        name="denials by reason and peer",
        duckdb="SELECT reason, peer, count(*) FROM denials GROUP BY ALL ORDER BY ALL",
        sqlite="SELECT reason, peer, count(*) FROM decision_row WHERE effect = 'deny'"
        " GROUP BY 1, 2 ORDER BY 1, 2, 3",
    ),
    Question(
        name="p95 of the duration by runner and peer",
        duckdb="SELECT runner, peer, quantile_disc(seconds, 0.95) FROM costs"
        " GROUP BY ALL ORDER BY 1, 2",
        sqlite=_P95,
    ),
    Question(
        name="a word in all prompts",
        duckdb="SELECT count(*) FROM tasks WHERE prompt ILIKE '%zzqx%'",
        sqlite="SELECT count(*) FROM task_row WHERE prompt LIKE '%zzqx%'",
    ),
    Question(
        name="a word in all event texts",
        duckdb="SELECT count(*) FROM events WHERE text ILIKE '%zzqx%'",
        sqlite="SELECT count(*) FROM event_row WHERE text LIKE '%zzqx%'",
    ),
    Question(
        name="running total of the cost by runner",
        duckdb="SELECT max(total) FROM (SELECT sum(cost_usd) OVER (PARTITION BY runner"
        " ORDER BY ended_at, seq) AS total FROM costs)",
        sqlite="SELECT max(total) FROM (SELECT sum(r.cost_usd) OVER (PARTITION BY t.runner"
        " ORDER BY r.ended_at, r.seq) AS total FROM result_row r"
        " JOIN task_row t ON t.task_id = r.task_id)",
    ),
    Question(
        name="cost by peer and day",
        duckdb="SELECT peer, day, sum(cost_usd) FROM costs GROUP BY ALL ORDER BY ALL",
        sqlite="SELECT t.peer, r.ended_at / 86400000000, sum(r.cost_usd) FROM result_row r"
        " JOIN task_row t ON t.task_id = r.task_id GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    Question(
        name="the latest event of every task, by kind",
        duckdb="SELECT kind, count(*) FROM (SELECT task_id, arg_max(kind, n) AS kind FROM events"
        " GROUP BY task_id) GROUP BY ALL ORDER BY ALL",
        sqlite="SELECT event_kind, count(*) FROM (SELECT task_id, max(n), event_kind"
        " FROM event_row GROUP BY task_id) GROUP BY 1 ORDER BY 1",
    ),
    Question(
        name="p50 of the wait in the queue by peer, from pairs of events",
        duckdb="SELECT peer, quantile_disc(wait, 0.5) FROM (SELECT task_id, epoch("
        "min(ts) FILTER (kind = 'running') - min(ts) FILTER (kind = 'queued')) AS wait"
        " FROM events WHERE kind IN ('queued', 'running') GROUP BY task_id)"
        " JOIN (SELECT task_id, peer FROM tasks) USING (task_id) GROUP BY ALL ORDER BY 1",
        sqlite=_WAIT,
    ),
    Question(
        name="events by kind and hour",
        duckdb="SELECT kind, time_bucket(INTERVAL 1 HOUR, ts) AS hour, count(*) FROM events"
        " GROUP BY ALL ORDER BY ALL",
        sqlite="SELECT event_kind, event_ts / 3600000000, count(*) FROM event_row"
        " GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    Question(
        name="calls by a field of JSON",
        duckdb="SELECT data->>'$.tool' AS tool, count(*) FROM events WHERE kind = 'tool_call'"
        " GROUP BY ALL ORDER BY ALL",
        sqlite="SELECT json_extract(data, '$.tool'), count(*) FROM event_row"
        " WHERE event_kind = 'tool_call' GROUP BY 1 ORDER BY 1",
    ),
)
