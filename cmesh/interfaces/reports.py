"""The named reports on the audit: their questions, and what is made of the answers. Pure.

Each is one SELECT with three parameters: from when, until when, and a peer; empty = any.
"""

# ruff: noqa: S608 - built of constants
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cmesh.runner.tree import is_telling

__all__ = ["REPORTS", "Answer", "Report", "Rule", "auto_run", "unused"]

_ASK = """
WITH ask AS (
  SELECT CAST($1 AS TIMESTAMPTZ) AS since, CAST($2 AS TIMESTAMPTZ) AS until, lower($3) AS wanted
)
"""

_STARTED = frozenset(
    [
        ".git",
        ".ssh",
        ".profile",
        ".bashrc",
        ".bash_profile",
        ".bash_login",
        ".zshrc",
        ".zshenv",
        ".zprofile",
        ".zlogin",
        "config.fish",
        "autostart",
        "systemd",
        "cron.d",
        "crontab",
        "init.d",
        "profile.d",
        "launchagents",
        "launchdaemons",
    ]
)
"""What else of a whole machine is run by being there: a task without a copy may write it."""


def _within(time: str, peers: str = "") -> str:
    """Return the condition that a row is of the asked time and peer; `peers` names their table."""
    names = ", ".join(f"lower({peers}{column})" for column in ("peer_name", "peer", "peer_id"))
    return f"{time} >= since AND {time} < until AND (wanted = '' OR wanted IN ({names}))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rows with the names of their columns and DuckDB's types."""

    columns: Sequence[str]
    types: Sequence[str]
    rows: list[list[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of the policy as the file has it; `line` 0 = not known."""

    direction: str
    effect: str
    name: str
    line: int = 0


Shape = Callable[[Answer, Sequence[Rule]], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A question people ask again and again.

    Attributes:
        about: what it shows, for the list.
        empty: what no rows mean.
        shape: what is made of the rows with the rules in force; None = they stay.
    """

    about: str
    sql: str
    empty: str
    shape: Shape | None = None


def unused(answer: Answer, rules: Sequence[Rule]) -> Answer:
    """Return the rules that decided nothing in the asked time, with when they last did."""
    used = {(row[0], row[1]): (row[2], row[3]) for row in answer.rows}
    rows: list[list[object]] = []
    for rule in rules:
        times, latest = used.get((rule.direction, rule.name), (0, None))
        if not times:
            rows.append([rule.direction, rule.effect, rule.name, rule.line or None, latest])
    columns = ("direction", "effect", "rule", "line", "last_used")
    types = ("VARCHAR", "VARCHAR", "VARCHAR", "BIGINT", "TIMESTAMP WITH TIME ZONE")
    return Answer(columns=columns, types=types, rows=rows)


def auto_run(answer: Answer, rules: Sequence[Rule]) -> Answer:
    """Return the files that run by being there; where no worker judged one, its name is."""
    del rules
    judged, path = answer.columns.index("judged_by"), answer.columns.index("path")
    rows: list[list[object]] = []
    for row in answer.rows:
        if row[judged] is None:
            name = str(row[path])
            if not is_telling(name, "") and _STARTED.isdisjoint(name.lower().split("/")):
                continue
            row = [*row[:judged], "its name", *row[judged + 1 :]]  # noqa: PLW2901
        rows.append(row)
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


REPORTS: Mapping[str, Report] = {
    "activity": Report(
        about="who did what where: tasks by who asked, peer, runner, profile and directory",
        empty="no task was asked for, in either direction",
        sql=f"""{_ASK}
SELECT if(direction = 'in', principal, 'this machine') AS who, direction, peer_name AS peer, runner,
  profile, directory, count(*) AS tasks,
  count(*) FILTER (state IN ('succeeded', 'waiting_input')) AS succeeded,
  round(sum(duration_s), 1) AS seconds, max(created_at) AS latest
FROM tasks, ask WHERE {_within("created_at")}
GROUP BY ALL ORDER BY tasks DESC, latest DESC
""",
    ),
    "approvals": Report(
        about="tasks that waited for a yes: the answer, after how long, by which program",
        empty="no task had to wait for a yes",
        sql=f"""{_ASK}
SELECT asked_at, direction, peer_name AS peer, principal, profile, directory,
  coalesce(answer, 'waits') AS answer, round(waited_s, 1) AS waited_s, program, reason, task_id
FROM approvals, ask WHERE {_within("asked_at")} ORDER BY asked_at DESC
""",
    ),
    "auto-run": Report(
        about="files that tasks changed and that run or instruct by being there: hooks, CI, settings",
        empty="no task changed a file that runs by being there, as far as files are told",
        shape=auto_run,
        sql=f"""{_ASK}
SELECT ended_at, direction, peer_name AS peer, path, change,
  if(auto_run, 'the worker', NULL) AS judged_by, task_id
FROM files_changed f, ask
WHERE auto_run IS NOT FALSE AND coalesce(ended_at, now()) >= since
  AND coalesce(ended_at, since) < until
  AND (wanted = '' OR wanted IN (lower(peer_name), lower(peer))
    OR (SELECT any_value(lower(t.peer_id)) FROM tasks t WHERE t.task_id = f.task_id) = wanted)
ORDER BY ended_at DESC, path
""",
    ),
    "costs": Report(
        about="cost by day, peer and runner, as far as runners tell it",
        empty="no task ended",
        sql=f"""{_ASK}
SELECT day, direction, peer_name AS peer, runner, count(*) AS tasks, sum(cost_usd) AS usd,
  count(*) FILTER (cost_usd IS NULL AND seconds IS NOT NULL) AS not_told,
  CAST(sum(tokens_in) AS BIGINT) AS tokens_in, CAST(sum(tokens_out) AS BIGINT) AS tokens_out,
  round(sum(seconds), 1) AS seconds
FROM costs, ask WHERE {_within("ended_at")}
GROUP BY ALL ORDER BY day DESC, usd DESC NULLS LAST, tasks DESC
""",
    ),
    "denials": Report(
        about="what was refused, by whose policy, with the condition that failed",
        empty="nothing was refused",
        sql=f"""{_ASK}
SELECT ts, if(direction = 'in', 'here', 'here, before it was sent') AS refused, peer_name AS peer, principal,
  operation, reason, failed->0->>'$.condition' AS condition, failed->0->>'$.wanted' AS wanted,
  failed->0->>'$.got' AS got, task_id
FROM denials, ask WHERE {_within("ts")}
UNION ALL
SELECT coalesce(ended_at, created_at), 'there', peer_name, '', 'task',
  coalesce(nullif(reason, ''), code), NULL, NULL, NULL, task_id
FROM tasks, ask WHERE direction = 'out' AND state = 'denied' AND {_within("created_at")}
ORDER BY 1 DESC
""",
    ),
    "failing": Report(
        about="how often each peer and runner fails, the worst first",
        empty="no task ran to an end",
        sql=f"""{_ASK}
SELECT direction, peer_name AS peer, runner, count(*) AS tasks,
  count(*) FILTER (state = 'failed') AS failed,
  count(*) FILTER (state = 'timed_out') AS timed_out,
  count(*) FILTER (state = 'interrupted') AS interrupted,
  count(*) FILTER (accepted IS FALSE) AS not_accepted,
  round(100.0 * count(*) FILTER (state IN ('failed', 'timed_out', 'interrupted')
    OR accepted IS FALSE) / count(*), 1) AS bad_percent
FROM (SELECT c.*, r.accepted FROM costs c LEFT JOIN results r ON r.seq = c.seq), ask
WHERE seconds IS NOT NULL AND {_within("ended_at")}
GROUP BY ALL ORDER BY bad_percent DESC, tasks DESC
""",
    ),
    "no-receipt": Report(
        about="tasks that ended and lack a signature of either side",
        empty="every task that ended is signed by both sides",
        sql=f"""{_ASK}
SELECT ended_at, direction, peer_name AS peer, state, receipt, task_id
FROM tasks, ask
WHERE receipt <> 'complete' AND {_within("ended_at")}
  -- What ended before its worker had it leaves nothing to sign.
  AND NOT (receipt = 'none' AND direction = 'out' AND state IN ('cancelled', 'expired'))
ORDER BY ended_at DESC
""",
    ),
    "slowest": Report(
        about="the tasks that ran longest, with how long they waited before",
        empty="no task ran to an end",
        sql=f"""{_ASK}
SELECT round(duration_s, 1) AS seconds, round(epoch(started_at - created_at), 1) AS waited_s,
  direction, peer_name AS peer, runner, state, ended_at, task_id
FROM tasks, ask WHERE duration_s IS NOT NULL AND {_within("ended_at")}
ORDER BY duration_s DESC
""",
    ),
    "unused-rules": Report(
        about="rules of `config.toml` that decided nothing, with when they last did",
        empty="`config.toml` has no rule that decided nothing",
        shape=unused,
        sql=f"""{_ASK}
SELECT if(direction = 'in', 'inbound', 'outbound') AS direction, rule,
  count(*) FILTER ({_within("ts")}) AS times,
  max(ts) FILTER (wanted = '' OR wanted IN (lower(peer_name), lower(peer), lower(peer_id))) AS latest
FROM decisions, ask WHERE rule IS NOT NULL GROUP BY ALL
""",
    ),
}
