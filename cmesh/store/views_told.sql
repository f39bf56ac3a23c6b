-- More views for people: what tasks cost, who approved them, which files they changed. As
-- `views.sql`, and after it. A text that was erased is NULL; its rows stay.

CREATE OR REPLACE VIEW costs AS
WITH last AS (SELECT * FROM result_row QUALIFY row_number() OVER (PARTITION BY task_id ORDER BY seq DESC) = 1)
SELECT r.task_id, trace_id, r.direction, t.peer, split_part(t.peer, '.', 1) AS peer_name, t.peer_id,
  t.principal, t.session, t.project, t.runner, t.profile, t.rule, r.state,
  -- By arithmetic: DuckDB's cast would take the reader's time zone.
  DATE '1970-01-01' + CAST(epoch_us(coalesce(r.ended_at, r.ts)) // 86400000000 AS INTEGER) AS day,
  coalesce(r.ended_at, r.ts) AS ended_at,
  TRY_CAST(r.cost_usd AS DECIMAL(18, 6)) AS cost_usd, r.tokens_in, r.tokens_out,
  r.turns AS model_turns, epoch(r.ended_at - r.started_at) AS seconds,
  TRY_CAST(t.limit_usd AS DECIMAL(18, 6)) AS limit_usd, t.limit_tokens, t.runtime_s AS limit_s,
  r.seq
FROM last r JOIN task_row t USING (task_id)
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id);
COMMENT ON VIEW costs IS 'what each task that ended has used, as far as its runner tells; live tests of runners are not in it';
COMMENT ON COLUMN costs.task_id IS 'the task';
COMMENT ON COLUMN costs.trace_id IS 'the call that led to it: view traces';
COMMENT ON COLUMN costs.direction IS 'out = a peer ran it for this node, in = it ran here; who pays is not known';
COMMENT ON COLUMN costs.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN costs.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN costs.peer_id IS 'the other node, by its stable id';
COMMENT ON COLUMN costs.principal IS 'who asked, by whois: login name or tags; empty for out';
COMMENT ON COLUMN costs.session IS 'the local agent session that asked; empty for in';
COMMENT ON COLUMN costs.project IS 'the local directory that session works in; empty for in';
COMMENT ON COLUMN costs.runner IS 'what ran it';
COMMENT ON COLUMN costs.profile IS 'what it was allowed: query, edit, build, full';
COMMENT ON COLUMN costs.rule IS 'the policy rule that allowed it';
COMMENT ON COLUMN costs.state IS 'how it ended';
COMMENT ON COLUMN costs.day IS 'on which it ended, in UTC';
COMMENT ON COLUMN costs.ended_at IS 'when it ended';
COMMENT ON COLUMN costs.cost_usd IS 'US dollars; NULL = its runner does not tell';
COMMENT ON COLUMN costs.tokens_in IS 'tokens read; NULL = not told';
COMMENT ON COLUMN costs.tokens_out IS 'tokens written; NULL = not told';
COMMENT ON COLUMN costs.model_turns IS 'answers of the model; NULL = not told';
COMMENT ON COLUMN costs.seconds IS 'from its start to its end; NULL = it never ran';
COMMENT ON COLUMN costs.limit_usd IS 'US dollars it was asked to stay within; NULL = no limit';
COMMENT ON COLUMN costs.limit_tokens IS 'tokens it was asked to stay within; NULL = no limit';
COMMENT ON COLUMN costs.limit_s IS 'seconds it was asked to stay within';
COMMENT ON COLUMN costs.seq IS 'the row in audit';

CREATE OR REPLACE VIEW approvals AS
WITH asked AS (
  SELECT task_id, min(seq) AS seq, arg_min(ts, seq) AS ts FROM step_row
  WHERE (kind = 'state' AND name = 'waiting') OR (kind = 'fact' AND name = 'waiting_approval')
  GROUP BY task_id
), moved AS (
  SELECT task_id, seq, ts, name AS state, nullif(reason, '') AS reason FROM step_row
  WHERE kind = 'state'
  UNION ALL
  SELECT task_id, seq, ts, if(started_at IS NULL, state, 'running'), nullif(error, '')
  FROM result_row
  UNION ALL
  SELECT task_id, seq, ts, 'running', NULL FROM event_row
  WHERE direction = 'out' AND event_kind IN ('queued', 'running')
    AND task_id IN (SELECT task_id FROM asked)
), answered AS (
  SELECT a.task_id, arg_min(m.state, m.seq) AS state, arg_min(m.ts, m.seq) AS ts,
    arg_min(m.reason, m.seq) AS reason
  FROM asked a JOIN task_row t USING (task_id)
  JOIN moved m ON m.task_id = a.task_id AND m.seq > a.seq
  WHERE m.state <> 'waiting'
    AND (t.direction = 'in' OR m.state NOT IN ('queued', 'sent', 'accepted'))
  GROUP BY a.task_id
), by_whom AS (
  SELECT task_id, arg_max(data, seq) AS data FROM audit_row WHERE kind = 'approval'
  GROUP BY task_id
)
SELECT a.task_id, trace_id, t.direction, t.peer, split_part(t.peer, '.', 1) AS peer_name, t.peer_id,
  t.principal, t.rule, t.runner, t.profile, t.directory, a.ts AS asked_at,
  CASE WHEN n.state IN ('denied', 'cancelled', 'expired') THEN n.state
    WHEN n.state IS NOT NULL THEN 'approved' END AS answer,
  n.ts AS answered_at, epoch(n.ts - a.ts) AS waited_s, n.reason,
  TRY_CAST(w.data ->> '$.pid' AS BIGINT) AS pid, w.data ->> '$.program' AS program, a.seq
FROM asked a JOIN task_row t USING (task_id)
LEFT JOIN answered n ON n.task_id = a.task_id
LEFT JOIN by_whom w ON w.task_id = a.task_id
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) c
  ON c.task_id = a.task_id;
COMMENT ON VIEW approvals IS 'one row per task that had to wait for a yes of its worker''s owner';
COMMENT ON COLUMN approvals.task_id IS 'the task';
COMMENT ON COLUMN approvals.trace_id IS 'the call that led to it: view traces';
COMMENT ON COLUMN approvals.direction IS 'in = this node''s owner was asked, out = a peer''s owner was';
COMMENT ON COLUMN approvals.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN approvals.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN approvals.peer_id IS 'the other node, by its stable id';
COMMENT ON COLUMN approvals.principal IS 'who asked, by whois: login name or tags; empty for out';
COMMENT ON COLUMN approvals.rule IS 'the policy rule of this node that let it come so far';
COMMENT ON COLUMN approvals.runner IS 'what was to run it';
COMMENT ON COLUMN approvals.profile IS 'what it was to be allowed';
COMMENT ON COLUMN approvals.directory IS 'where on the worker';
COMMENT ON COLUMN approvals.asked_at IS 'since when it waited, as this node knows';
COMMENT ON COLUMN approvals.answer IS 'approved or denied; cancelled or expired = it ended without a word; NULL = it waits';
COMMENT ON COLUMN approvals.answered_at IS 'when, as this node knows';
COMMENT ON COLUMN approvals.waited_s IS 'seconds between the two';
COMMENT ON COLUMN approvals.reason IS 'why it was not approved; NULL when erased';
COMMENT ON COLUMN approvals.pid IS 'the process that gave the answer here; NULL = not known, or out';
COMMENT ON COLUMN approvals.program IS 'the name of that process; NULL = not known, or out';
COMMENT ON COLUMN approvals.seq IS 'the row in audit';

CREATE OR REPLACE VIEW files_changed AS
WITH last AS (
  SELECT task_id, direction, seq, coalesce(ended_at, ts) AS ended_at, patch,
    evidence -> '$.changed' AS seen
  FROM result_row QUALIFY row_number() OVER (PARTITION BY task_id ORDER BY seq DESC) = 1
), listed AS (
  SELECT task_id, seq, 'patch' AS told_by, unnest(from_json(patch -> '$.changed', '["VARCHAR"]')) AS name
  FROM last WHERE patch IS NOT NULL
  UNION ALL
  SELECT task_id, seq, 'directory', unnest(from_json(seen -> '$.names', '["VARCHAR"]'))
  FROM last WHERE seen IS NOT NULL AND seen <> 'null'
), said AS (
  SELECT task_id, max(seq) AS seq, data ->> '$.path' AS path, arg_max(data ->> '$.change', n) AS change
  FROM event_row WHERE event_kind = 'file_change' AND data ->> '$.path' <> ''
    AND task_id NOT IN (SELECT task_id FROM listed)
  GROUP BY task_id, data ->> '$.path'
), named AS (
  SELECT task_id, seq, told_by, substr(name, 3) AS path, CASE left(name, 1) WHEN 'A' THEN 'added'
    WHEN 'D' THEN 'deleted' WHEN 'T' THEN 'retyped' ELSE 'modified' END AS change
  FROM listed
  UNION ALL
  SELECT task_id, seq, 'agent', path, CASE change WHEN 'add' THEN 'added'
    WHEN 'delete' THEN 'deleted' WHEN 'update' THEN 'modified' ELSE 'written' END FROM said
), flags AS (
  SELECT task_id, from_json(patch -> '$.flagged', '["VARCHAR"]') AS names,
    TRY_CAST(patch ->> '$.flagged_count' AS BIGINT) AS number
  FROM last WHERE patch IS NOT NULL
)
SELECT f.task_id, trace_id, t.direction, t.peer, split_part(t.peer, '.', 1) AS peer_name, t.runner,
  t.profile, t.directory, f.path, f.change,
  CASE WHEN f.told_by <> 'patch' THEN NULL WHEN list_contains(g.names, f.path) THEN true
    WHEN g.number > len(g.names) THEN NULL ELSE false END AS auto_run,
  f.told_by, r.ended_at, f.seq
FROM named f JOIN task_row t USING (task_id)
LEFT JOIN last r ON r.task_id = f.task_id
LEFT JOIN flags g ON g.task_id = f.task_id
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) c
  ON c.task_id = f.task_id;
COMMENT ON VIEW files_changed IS 'files that tasks changed: of a copy by its patch, else of the directory as the worker compared it, else as the agent says';
COMMENT ON COLUMN files_changed.task_id IS 'the task';
COMMENT ON COLUMN files_changed.trace_id IS 'the call that led to it: view traces';
COMMENT ON COLUMN files_changed.direction IS 'out = told by a peer, in = a task run here';
COMMENT ON COLUMN files_changed.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN files_changed.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN files_changed.runner IS 'what ran the task';
COMMENT ON COLUMN files_changed.profile IS 'what it was allowed: edit, build, full';
COMMENT ON COLUMN files_changed.directory IS 'of the task, on the worker';
COMMENT ON COLUMN files_changed.path IS 'below that directory; by the agent''s word maybe absolute. Very many are cut: `results.patch` counts them all';
COMMENT ON COLUMN files_changed.change IS 'added, modified, deleted; retyped = a file became a link or the like; written = added or modified';
COMMENT ON COLUMN files_changed.auto_run IS 'it runs or instructs by being there: hooks, CI, settings of agents; NULL = nobody judged';
COMMENT ON COLUMN files_changed.told_by IS 'patch or directory = the worker compared; agent = it says so itself';
COMMENT ON COLUMN files_changed.ended_at IS 'when the task ended; NULL = it runs';
COMMENT ON COLUMN files_changed.seq IS 'the row in audit';
