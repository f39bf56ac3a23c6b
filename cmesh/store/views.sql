-- The views people and agents ask, made anew after each migration. Names and columns are
-- stable; new columns may be added, at the end:
-- `tests/contract/snapshots/views.json`. Comments are what `cmesh schema` prints. More of them:
-- `views_told.sql`.

-- Others join it grouped by task: then DuckDB sees that it adds no row, and leaves the join out
-- where nobody asks for the trace.
CREATE OR REPLACE VIEW traces AS
WITH led AS (
  SELECT *, CASE
    WHEN direction = 'out' AND starts_with(session, 'task:') AND json_array_length(origin) > 0
      THEN TRY_CAST(substr(session, 6) AS UUID) END AS parent
  FROM task_row
)
-- Where no header came along, as from older callers: by what is known here.
SELECT coalesce(trace, replace(CAST(coalesce(parent, task_id) AS VARCHAR), '-', '')) AS trace_id,
  task_id, direction, parent, CAST(json_array_length(origin) AS BIGINT) AS hops, traceparent,
  ts AS created_at, seq
FROM led;
COMMENT ON VIEW traces IS 'one row per task: the call that led to it, on whatever machine that was made';
COMMENT ON COLUMN traces.trace_id IS 'the same for all that one call led to, on every machine: a W3C trace id, 32 hex digits. The caller''s word';
COMMENT ON COLUMN traces.task_id IS 'the task';
COMMENT ON COLUMN traces.direction IS 'out = this node asked, in = this node was asked';
COMMENT ON COLUMN traces.parent IS 'the task of this node that asked for it; NULL = a person or an agent did, or another node knows';
COMMENT ON COLUMN traces.hops IS 'nodes that it went through before; 0 = its caller began it';
COMMENT ON COLUMN traces.traceparent IS 'the W3C header it was sent with; empty = by an older caller';
COMMENT ON COLUMN traces.created_at IS 'when this node stored the task';
COMMENT ON COLUMN traces.seq IS 'the task''s row in audit';

CREATE OR REPLACE VIEW tasks AS
WITH step AS (
  SELECT task_id, seq, ts, kind, name, witness, code, reason FROM step_row
  UNION ALL
  SELECT task_id, seq, ts, 'state', state, witness, nullif(code, ''), NULL FROM result_row
), now_at AS (
  SELECT task_id,
    arg_max(name, seq) FILTER (kind = 'state') AS state,
    arg_max(witness, seq) FILTER (kind = 'state') AS witness,
    arg_max(code, seq) FILTER (kind = 'state') AS code,
    arg_max(reason, seq) FILTER (kind = 'state') AS reason,
    arg_max(ts, seq) FILTER (kind = 'state') AS state_ts,
    min(ts) FILTER (kind = 'state' AND name = 'running') AS running_ts,
    bool_or(kind = 'fact' AND name = 'cancel_wish') AS cancel_wish,
    bool_or(kind = 'fact' AND name = 'waiting_approval') AS waits
  FROM step GROUP BY task_id
), progress AS (
  SELECT task_id,
    arg_max(event_kind, n) FILTER (event_kind IN
      ('queued', 'running', 'waiting_approval', 'cancelling')) AS progress,
    min(event_ts) FILTER (event_kind = 'running') AS running_ts,
    max(n) AS events
  FROM event_row GROUP BY task_id
), outcome AS (
  SELECT * FROM result_row WHERE seq IN (SELECT max(seq) FROM result_row GROUP BY task_id)
), signed AS (
  SELECT task_id, arg_max(signature, seq) AS signature FROM receipt_row
  WHERE receipt_kind = 'result_ack' GROUP BY task_id
), joined AS (
  SELECT t.task_id, s.witness, s.code, s.reason, s.state_ts,
    coalesce(s.cancel_wish, false) AS cancel_wish, coalesce(p.events, 0) AS events,
    o.seq AS told_seq, o.ended_at AS told_end, o.exit_code, o.cost_usd, o.tokens_in, o.tokens_out,
    o.turns AS model_turns, o.output_bytes, o.profile_enforced, o.worker_signature,
    coalesce(o.started_at, s.running_ts, p.running_ts) AS began_at,
    coalesce(nullif(o.caller_signature, ''), a.signature, '') AS caller_signature,
    CASE
      WHEN t.direction = 'out' AND coalesce(s.state, 'queued') IN ('queued', 'sent', 'accepted')
        AND s.cancel_wish
        THEN 'cancelling'
      WHEN t.direction = 'in' AND s.state IN ('intent', 'running') AND s.cancel_wish
        THEN 'cancelling'
      WHEN t.direction = 'out' AND s.state = 'accepted' AND s.waits
        THEN coalesce(p.progress, 'waiting_approval')
      WHEN t.direction = 'out' AND s.state = 'accepted' THEN coalesce(p.progress, 'queued')
      WHEN t.direction = 'out' AND coalesce(s.state, 'queued') IN ('queued', 'sent')
        THEN 'submitting'
      WHEN t.direction = 'in' AND coalesce(s.state, 'accepted') IN ('accepted', 'intent')
        THEN 'queued'
      WHEN t.direction = 'in' AND s.state = 'waiting' THEN 'waiting_approval'
      -- Short lists: with a long one DuckDB joins, which takes longer.
      WHEN s.state IN ('running', 'cancelling', 'succeeded', 'failed', 'cancelled')
        OR s.state IN ('timed_out', 'interrupted', 'denied', 'expired') THEN s.state
      ELSE 'unknown'
    END AS told
  FROM task_row t
  LEFT JOIN now_at s USING (task_id) LEFT JOIN progress p USING (task_id)
  LEFT JOIN outcome o USING (task_id) LEFT JOIN signed a USING (task_id)
), turn AS NOT MATERIALIZED (
  SELECT task_id, arg_max(name, seq) AS state, arg_max(code, seq) AS code FROM (
    SELECT task_id, seq, name, code FROM step_row WHERE kind = 'state'
    UNION ALL SELECT task_id, seq, state, nullif(code, '') FROM result_row
  ) WHERE task_id IN (SELECT task_id FROM task_row WHERE follows IS NOT NULL) GROUP BY task_id
), followed AS NOT MATERIALIZED (
  -- Another turn has the place after it, or was told that none can: `store/turns.py`.
  SELECT t.follows AS task_id FROM task_row t LEFT JOIN turn s USING (task_id)
  WHERE t.follows IS NOT NULL AND (s.code IN ('session_gone', 'runner_cannot')
    OR (coalesce(s.state, 'queued') NOT IN ('denied', 'expired')
      AND (coalesce(s.state, 'queued') <> 'cancelled'
        OR task_id IN (SELECT task_id FROM result_row))))
), asking AS NOT MATERIALIZED (
  -- The pattern is that of `cmesh/question.py`.
  SELECT seq AS asked_seq, follow_up_until AS asked_until FROM result_row
  WHERE state = 'succeeded' AND follow_up = 'possible' AND contains(text, 'CMESH-QUESTION:')
    AND regexp_matches(text, '(^|[\r\n])[*_`> \t]*CMESH-QUESTION:[*_`> \t]*[^*_`> \t\r\n][^\r\n]*[\r\n*_`> \t]*$')
    AND task_id NOT IN (FROM followed)
), named AS (
  SELECT joined.*, told IN ('succeeded', 'failed', 'cancelled', 'timed_out')
      OR told IN ('interrupted', 'denied', 'expired') AS ended,
    CASE WHEN told = 'succeeded' THEN asked_until END AS question_until,
    CASE WHEN told = 'succeeded' AND asked_until > now() THEN 'waiting_input' ELSE told END
      AS state
  FROM joined LEFT JOIN asking ON asked_seq = told_seq
), known AS (
  -- Grouped, so that DuckDB sees that the one join with it adds no row, and leaves it out with
  -- all the joins above where nobody asks for what is not in a task's own row.
  SELECT task_id, any_value(state) AS state, any_value(witness) AS witness, any_value(code) AS code,
    any_value(reason) AS reason, any_value(began_at) AS began_at, any_value(ended) AS ended,
    any_value(told_end) AS told_end, any_value(state_ts) AS state_ts,
    any_value(told_seq) AS told_seq, any_value(exit_code) AS exit_code,
    any_value(cost_usd) AS cost_usd, any_value(tokens_in) AS tokens_in,
    any_value(tokens_out) AS tokens_out, any_value(model_turns) AS model_turns,
    any_value(output_bytes) AS output_bytes, any_value(profile_enforced) AS profile_enforced,
    any_value(events) AS events, any_value(cancel_wish) AS cancel_wish,
    any_value(question_until) AS question_until, any_value(worker_signature) AS worker_signature,
    any_value(caller_signature) AS caller_signature
  FROM named GROUP BY task_id
), asked AS (
  -- The parent as in `traces`; a join with that would cost more than all the rest.
  SELECT *, CASE
    WHEN direction = 'out' AND starts_with(session, 'task:') AND json_array_length(origin) > 0
      THEN TRY_CAST(substr(session, 6) AS UUID) END AS parent
  FROM task_row
)
SELECT task_id, direction, peer, peer_id, principal, runner, profile, directory, prompt, state,
  coalesce(witness, '') AS witness, coalesce(code, '') AS code, coalesce(reason, '') AS reason,
  rule, session, project, ts AS created_at, began_at AS started_at,
  CASE WHEN ended THEN coalesce(told_end, state_ts) END AS ended_at,
  epoch(coalesce(told_end, CASE WHEN ended THEN state_ts END) - began_at) AS duration_s,
  exit_code, TRY_CAST(cost_usd AS DECIMAL(18, 6)) AS cost_usd, tokens_in, tokens_out, model_turns,
  runtime_s AS limit_s, TRY_CAST(limit_usd AS DECIMAL(18, 6)) AS limit_usd, limit_tokens,
  limit_turns, output_bytes, profile_enforced, events, cancel_wish AS cancel_requested,
  coalesce(thread, task_id) AS thread, coalesce(turn, 1) AS turn, follows, question_until,
  coalesce(selection ->> 'group', '') AS group_id, coalesce(selection ->> 'chosen', '') AS chosen,
  CASE WHEN changes IS NULL THEN coalesce(base, 'head') ELSE 'changes' END AS base, changes,
  CASE WHEN told_seq IS NULL THEN 'none' WHEN payload_hash IS NULL THEN 'forgotten'
    WHEN worker_signature <> '' AND caller_signature <> '' THEN 'complete'
    ELSE 'pending' END AS receipt,
  idempotency_key, prompt_bytes, payload_hash, seq, split_part(peer, '.', 1) AS peer_name,
  coalesce(trace, replace(CAST(coalesce(parent, task_id) AS VARCHAR), '-', '')) AS trace_id,
  parent, payload_hash IS NULL AS forgotten
FROM asked LEFT JOIN known USING (task_id);
COMMENT ON VIEW tasks IS 'one row per task, either direction';
COMMENT ON COLUMN tasks.task_id IS 'made by the caller; the same on both sides';
COMMENT ON COLUMN tasks.direction IS 'out = this node asked, in = this node was asked';
COMMENT ON COLUMN tasks.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN tasks.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN tasks.peer_id IS 'the other node, by its stable id';
COMMENT ON COLUMN tasks.principal IS 'who asked, by whois: login name or tags; empty for out';
COMMENT ON COLUMN tasks.runner IS 'what runs the task';
COMMENT ON COLUMN tasks.profile IS 'what the task may do: query, edit, build, full';
COMMENT ON COLUMN tasks.directory IS 'where on the worker';
COMMENT ON COLUMN tasks.prompt IS 'what was asked; NULL when erased or never stored';
COMMENT ON COLUMN tasks.state IS 'the state as `cmesh tasks` shows it; waiting_input = succeeded with a question that can be answered now';
COMMENT ON COLUMN tasks.witness IS 'what the state rests on';
COMMENT ON COLUMN tasks.code IS 'error code when cmesh itself explains the state';
COMMENT ON COLUMN tasks.reason IS 'the reason given with the state';
COMMENT ON COLUMN tasks.rule IS 'the policy rule that allowed it';
COMMENT ON COLUMN tasks.session IS 'the local agent session that asked';
COMMENT ON COLUMN tasks.project IS 'the local directory that session works in';
COMMENT ON COLUMN tasks.created_at IS 'when this node stored the task';
COMMENT ON COLUMN tasks.started_at IS 'when its runner started';
COMMENT ON COLUMN tasks.ended_at IS 'when it ended';
COMMENT ON COLUMN tasks.duration_s IS 'seconds from start to end';
COMMENT ON COLUMN tasks.exit_code IS 'of the runner; negative = signal';
COMMENT ON COLUMN tasks.cost_usd IS 'US dollars, as far as the runner reports them';
COMMENT ON COLUMN tasks.tokens_in IS 'as far as the runner reports them';
COMMENT ON COLUMN tasks.tokens_out IS 'as far as the runner reports them';
COMMENT ON COLUMN tasks.model_turns IS 'answers of the model, as far as the runner tells them';
COMMENT ON COLUMN tasks.limit_s IS 'seconds it was asked to stay within';
COMMENT ON COLUMN tasks.limit_usd IS 'US dollars it was asked to stay within; NULL = no limit';
COMMENT ON COLUMN tasks.limit_tokens IS 'tokens it was asked to stay within; NULL = no limit';
COMMENT ON COLUMN tasks.limit_turns IS 'answers of the model it was asked to stay within; NULL = no limit';
COMMENT ON COLUMN tasks.output_bytes IS 'bytes the runner wrote';
COMMENT ON COLUMN tasks.profile_enforced IS 'the sandbox tier that held; none = self-attested';
COMMENT ON COLUMN tasks.events IS 'number of the latest event';
COMMENT ON COLUMN tasks.cancel_requested IS 'somebody asked to cancel it';
COMMENT ON COLUMN tasks.receipt IS 'signatures on the result: none, pending, complete; forgotten = erased with the texts';
COMMENT ON COLUMN tasks.forgotten IS 'its texts were erased, by `keep_text` or by somebody; the row stays';
COMMENT ON COLUMN tasks.thread IS 'the first task of the conversation; its own id for a first turn';
COMMENT ON COLUMN tasks.turn IS 'its place in the conversation, from 1';
COMMENT ON COLUMN tasks.follows IS 'the turn before; NULL for a first turn';
COMMENT ON COLUMN tasks.question_until IS 'until when what its agent asks back can be answered; NULL = it asks nothing, or it was answered';
COMMENT ON COLUMN tasks.group_id IS 'the group of tasks one call asked of several peers; empty = alone';
COMMENT ON COLUMN tasks.chosen IS 'how its peer was chosen by `--where`, in words; empty = it was named';
COMMENT ON COLUMN tasks.base IS 'what a copy was to hold: head = the commit, working-tree = with uncommitted changes';
COMMENT ON COLUMN tasks.changes IS 'SHA-256 of the uncommitted changes that the caller sent along; NULL = none were sent';
COMMENT ON COLUMN tasks.idempotency_key IS 'the caller''s key; empty for in';
COMMENT ON COLUMN tasks.prompt_bytes IS 'length of the prompt in UTF-8';
COMMENT ON COLUMN tasks.payload_hash IS 'SHA-256 over all that was asked';
COMMENT ON COLUMN tasks.seq IS 'the task''s row in audit';
COMMENT ON COLUMN tasks.trace_id IS 'the call that led to it: view traces';
COMMENT ON COLUMN tasks.parent IS 'the task of this node that asked for it; NULL = a person or an agent did';

CREATE OR REPLACE VIEW steps AS
SELECT s.task_id, t.direction,
  CASE
    WHEN t.direction = 'out' AND s.name IN ('queued', 'sent') THEN 'submitting'
    WHEN t.direction = 'out' AND s.name = 'accepted' THEN 'queued'
    WHEN t.direction = 'in' AND s.name IN ('accepted', 'intent') THEN 'queued'
    WHEN t.direction = 'in' AND s.name = 'waiting' THEN 'waiting_approval'
    ELSE s.name
  END AS state,
  s.witness, coalesce(s.code, '') AS code, coalesce(s.reason, '') AS reason, s.ts, s.seq,
  trace_id
FROM step_row s JOIN task_row t USING (task_id)
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id)
WHERE s.kind = 'state';
COMMENT ON VIEW steps IS 'what a node wrote down of a task, one row per commit of a state';
COMMENT ON COLUMN steps.task_id IS 'the task';
COMMENT ON COLUMN steps.direction IS 'out = this node asked, in = this node was asked';
COMMENT ON COLUMN steps.state IS 'as `cmesh tasks` shows it; two steps may have one state';
COMMENT ON COLUMN steps.witness IS 'what it rests on';
COMMENT ON COLUMN steps.code IS 'error code when cmesh itself explains the state';
COMMENT ON COLUMN steps.reason IS 'the reason given with the state';
COMMENT ON COLUMN steps.ts IS 'when this node committed it';
COMMENT ON COLUMN steps.seq IS 'the row in audit';
COMMENT ON COLUMN steps.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW releases AS
SELECT s.task_id, t.direction, t.peer, t.peer_id, replace(s.name, '_released', '') AS part,
  coalesce(s.data ->> 'path', '') AS path, s.data ->> 'sha256' AS sha256,
  CAST(s.data ->> 'bytes' AS BIGINT) AS bytes, CAST(s.data ->> 'pid' AS BIGINT) AS pid,
  s.data ->> 'program' AS program, s.ts, s.seq, trace_id
FROM step_row s JOIN task_row t USING (task_id)
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id)
WHERE s.kind = 'fact' AND s.name IN ('patch_released', 'artifact_released');
COMMENT ON VIEW releases IS 'patches and files that a secret withheld and their worker''s owner released';
COMMENT ON COLUMN releases.task_id IS 'the task';
COMMENT ON COLUMN releases.direction IS 'out = it came to this node, in = this node''s owner released it';
COMMENT ON COLUMN releases.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN releases.peer_id IS 'the other node, by its stable id';
COMMENT ON COLUMN releases.part IS 'patch or artifact';
COMMENT ON COLUMN releases.path IS 'of a file; empty for the patch';
COMMENT ON COLUMN releases.sha256 IS 'of its bytes, as the signed result says';
COMMENT ON COLUMN releases.bytes IS 'its length';
COMMENT ON COLUMN releases.pid IS 'the process that asked for the release; NULL for out';
COMMENT ON COLUMN releases.program IS 'the name of that process; NULL for out';
COMMENT ON COLUMN releases.ts IS 'when this node committed it: the release, or that the bytes are here';
COMMENT ON COLUMN releases.seq IS 'the row in audit';
COMMENT ON COLUMN releases.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW threads AS
SELECT thread, direction, any_value(peer) AS peer, count(*) AS turns,
  arg_max(task_id, turn) AS last_task, arg_max(state, turn) AS state, min(created_at) AS created_at,
  max(ended_at) AS ended_at, sum(cost_usd) AS cost_usd
FROM tasks WHERE state NOT IN ('denied', 'expired') OR turn = 1 GROUP BY thread, direction;
COMMENT ON VIEW threads IS 'one row per conversation: a task and its follow-up turns';
COMMENT ON COLUMN threads.thread IS 'the first task';
COMMENT ON COLUMN threads.direction IS 'out = this node asked, in = this node was asked';
COMMENT ON COLUMN threads.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN threads.turns IS 'how many turns were taken; refused and expired ones are left out';
COMMENT ON COLUMN threads.last_task IS 'the newest turn';
COMMENT ON COLUMN threads.state IS 'its state';
COMMENT ON COLUMN threads.created_at IS 'when this node stored the first turn';
COMMENT ON COLUMN threads.ended_at IS 'when the last turn that has ended did';
COMMENT ON COLUMN threads.cost_usd IS 'US dollars of all turns, as far as the runner reports them';

CREATE OR REPLACE VIEW events AS
SELECT task_id, n, event_ts AS ts, event_kind AS kind, text, data, direction, ts AS stored_at, seq,
  trace_id
FROM event_row
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id);
COMMENT ON VIEW events IS 'what running tasks told, in order of n per task';
COMMENT ON COLUMN events.task_id IS 'the task';
COMMENT ON COLUMN events.n IS 'number of the event within its task, from 1';
COMMENT ON COLUMN events.ts IS 'when it happened, by the worker''s clock';
COMMENT ON COLUMN events.kind IS 'text, tool_call, tool_result, output, cost, a state, ...';
COMMENT ON COLUMN events.text IS 'for people; NULL when erased';
COMMENT ON COLUMN events.data IS 'JSON particular to the kind';
COMMENT ON COLUMN events.direction IS 'out = told by a peer, in = a task run here';
COMMENT ON COLUMN events.stored_at IS 'when this node stored it';
COMMENT ON COLUMN events.seq IS 'the row in audit';
COMMENT ON COLUMN events.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW decisions AS
SELECT ts, direction, peer, peer_id, principal, operation, effect, rule, reason, failed, task_id,
  policy_sha256, seq, split_part(peer, '.', 1) AS peer_name, trace_id
FROM decision_row
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id);
COMMENT ON VIEW decisions IS 'every policy decision';
COMMENT ON COLUMN decisions.ts IS 'when it was decided';
COMMENT ON COLUMN decisions.direction IS 'in = a peer asked here, out = this node asked a peer';
COMMENT ON COLUMN decisions.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN decisions.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN decisions.peer_id IS 'the other node, by its stable id';
COMMENT ON COLUMN decisions.principal IS 'who asked, by whois';
COMMENT ON COLUMN decisions.operation IS 'what was asked: task, follow_up, accept, ...';
COMMENT ON COLUMN decisions.effect IS 'allow, ask or deny';
COMMENT ON COLUMN decisions.rule IS 'the rule that decided; NULL = no rule matched';
COMMENT ON COLUMN decisions.reason IS 'in words';
COMMENT ON COLUMN decisions.failed IS 'JSON list of conditions that did not hold';
COMMENT ON COLUMN decisions.task_id IS 'the task, when it has an id';
COMMENT ON COLUMN decisions.policy_sha256 IS 'the policy that was in force';
COMMENT ON COLUMN decisions.seq IS 'the row in audit';
COMMENT ON COLUMN decisions.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW denials AS
SELECT ts, direction, peer, peer_id, principal, operation, rule, reason, failed, task_id, seq,
  split_part(peer, '.', 1) AS peer_name, trace_id
FROM decision_row
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id)
WHERE effect = 'deny';
COMMENT ON VIEW denials IS 'the decisions that denied';
COMMENT ON COLUMN denials.ts IS 'when it was decided';
COMMENT ON COLUMN denials.direction IS 'in = a peer asked here, out = this node asked a peer';
COMMENT ON COLUMN denials.peer IS 'the other node, by the name it had then';
COMMENT ON COLUMN denials.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN denials.peer_id IS 'the other node, by its stable id';
COMMENT ON COLUMN denials.principal IS 'who asked, by whois';
COMMENT ON COLUMN denials.operation IS 'what was asked';
COMMENT ON COLUMN denials.rule IS 'the rule that denied; NULL = no rule matched';
COMMENT ON COLUMN denials.reason IS 'in words';
COMMENT ON COLUMN denials.failed IS 'JSON list of conditions that did not hold';
COMMENT ON COLUMN denials.task_id IS 'the task, when it has an id';
COMMENT ON COLUMN denials.seq IS 'the row in audit';
COMMENT ON COLUMN denials.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW results AS
SELECT task_id, direction, state, witness, exit_code, text, error, code, output_bytes,
  output_kept, output_sha256, truncated, TRY_CAST(cost_usd AS DECIMAL(18, 6)) AS cost_usd,
  tokens_in, tokens_out, turns AS model_turns, runner_version, profile_enforced, credential, processes_left, started_at,
  ended_at, ts AS stored_at, coalesce(redacted, 0) AS redacted, basis, patch, artifacts, evidence,
  TRY_CAST(evidence->>'$.acceptance.passed' AS BOOLEAN) AS accepted,
  evidence->>'$.acceptance.end' AS acceptance_end,
  TRY_CAST(evidence->>'$.acceptance.exit_code' AS INTEGER) AS acceptance_exit,
  TRY_CAST(evidence->>'$.acceptance.runtime_s' AS DOUBLE) AS acceptance_s,
  TRY_CAST(evidence->>'$.tool_calls' AS BIGINT) AS tool_calls,
  TRY_CAST(answer AS JSON) AS answer, worker_signature, caller_signature, seq,
  trace_id
FROM result_row
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id);
COMMENT ON VIEW results IS 'how tasks ended, and the evidence';
COMMENT ON COLUMN results.task_id IS 'the task';
COMMENT ON COLUMN results.direction IS 'out = told by a peer, in = a task run here';
COMMENT ON COLUMN results.state IS 'how it ended';
COMMENT ON COLUMN results.witness IS 'what that rests on';
COMMENT ON COLUMN results.exit_code IS 'of the runner; negative = signal';
COMMENT ON COLUMN results.text IS 'the runner''s final text; NULL when erased';
COMMENT ON COLUMN results.error IS 'what went wrong, in words; NULL when erased';
COMMENT ON COLUMN results.code IS 'error code when cmesh itself explains the end';
COMMENT ON COLUMN results.output_bytes IS 'bytes the runner wrote';
COMMENT ON COLUMN results.output_kept IS 'bytes kept of them';
COMMENT ON COLUMN results.output_sha256 IS 'of the kept output';
COMMENT ON COLUMN results.truncated IS 'the output was longer than the limit';
COMMENT ON COLUMN results.cost_usd IS 'US dollars, as far as the runner reports them';
COMMENT ON COLUMN results.tokens_in IS 'as far as the runner reports them';
COMMENT ON COLUMN results.tokens_out IS 'as far as the runner reports them';
COMMENT ON COLUMN results.model_turns IS 'answers of the model, as far as the runner tells them';
COMMENT ON COLUMN results.runner_version IS 'of the agent program';
COMMENT ON COLUMN results.profile_enforced IS 'the sandbox tier that held; none = self-attested';
COMMENT ON COLUMN results.credential IS 'none, gateway, or exposed to the task';
COMMENT ON COLUMN results.processes_left IS 'counted at the end';
COMMENT ON COLUMN results.started_at IS 'when the runner started';
COMMENT ON COLUMN results.ended_at IS 'when it ended';
COMMENT ON COLUMN results.stored_at IS 'when this node stored the result';
COMMENT ON COLUMN results.redacted IS 'secrets taken out of texts and kept output';
COMMENT ON COLUMN results.basis IS 'JSON the worker signed with it: caller, profile, policy, prompt, audit head';
COMMENT ON COLUMN results.artifacts IS 'JSON of the files it handed over: path, bytes, sha256, withheld; NULL = it was asked for none';
COMMENT ON COLUMN results.answer IS 'the answer that fits the JSON Schema it was asked for; NULL = none';
COMMENT ON COLUMN results.patch IS 'JSON of what a task on a copy changed: sha256, files, base_commit, withheld; NULL = it had none';
COMMENT ON COLUMN results.evidence IS 'JSON of what the worker found out: acceptance, tool_calls, commands, denials, model, before (commit, branch, dirty), changed; NULL = it never ran, or erased';
COMMENT ON COLUMN results.accepted IS 'the acceptance command passed; NULL = there was none';
COMMENT ON COLUMN results.acceptance_end IS 'how it ended: exited, timed_out, disk_limit, cancelled, spawn_failed, not_run, unknown';
COMMENT ON COLUMN results.acceptance_exit IS 'of the acceptance command; negative = signal';
COMMENT ON COLUMN results.acceptance_s IS 'seconds that it ran';
COMMENT ON COLUMN results.tool_calls IS 'as the agent tells them; 0 = it called nothing, NULL = it is no agent';
COMMENT ON COLUMN results.worker_signature IS 'Ed25519, base64url';
COMMENT ON COLUMN results.caller_signature IS 'Ed25519, base64url; empty until known';
COMMENT ON COLUMN results.seq IS 'the row in audit';
COMMENT ON COLUMN results.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW commands_run AS
WITH told AS (
  SELECT task_id, direction, ended_at, seq,
    unnest(from_json(evidence->'$.commands', '["JSON"]')) AS ran,
    generate_subscripts(from_json(evidence->'$.commands', '["JSON"]'), 1) AS n
  FROM result_row WHERE evidence IS NOT NULL
)
SELECT task_id, direction, n, ran->>'$.command' AS command,
  TRY_CAST(ran->>'$.exit_code' AS INTEGER) AS exit_code,
  TRY_CAST(ran->>'$.failed' AS BOOLEAN) AS failed, ended_at, seq, trace_id
FROM told
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id);
COMMENT ON VIEW commands_run IS 'commands that agents say they ran, the last ones of each task';
COMMENT ON COLUMN commands_run.task_id IS 'the task';
COMMENT ON COLUMN commands_run.direction IS 'out = told by a peer, in = a task run here';
COMMENT ON COLUMN commands_run.n IS 'in the order of their start; the first ones may be left out';
COMMENT ON COLUMN commands_run.command IS 'the command line, cut and redacted';
COMMENT ON COLUMN commands_run.exit_code IS 'as the agent''s program tells it; NULL = it tells none';
COMMENT ON COLUMN commands_run.failed IS 'the agent says that it failed; NULL = it has not said';
COMMENT ON COLUMN commands_run.ended_at IS 'when the task ended';
COMMENT ON COLUMN commands_run.seq IS 'the row in audit';
COMMENT ON COLUMN commands_run.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW receipts AS
SELECT ts, peer, peer_id, receipt_kind AS kind, task_id, head_seq, head_hash, signature, seq,
  split_part(peer, '.', 1) AS peer_name, trace_id
FROM receipt_row
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) USING (task_id);
COMMENT ON VIEW receipts IS 'what peers signed: heads of their logs, results they committed';
COMMENT ON COLUMN receipts.ts IS 'when it came';
COMMENT ON COLUMN receipts.peer IS 'the signer, by the name it had then';
COMMENT ON COLUMN receipts.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN receipts.peer_id IS 'the signer, by its stable id';
COMMENT ON COLUMN receipts.kind IS 'head or result_ack';
COMMENT ON COLUMN receipts.task_id IS 'the task, for result_ack';
COMMENT ON COLUMN receipts.head_seq IS 'last row of the signer''s log';
COMMENT ON COLUMN receipts.head_hash IS 'that row''s hash, hex';
COMMENT ON COLUMN receipts.signature IS 'Ed25519, base64url';
COMMENT ON COLUMN receipts.seq IS 'the row in audit';
COMMENT ON COLUMN receipts.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW peers AS
WITH seen AS (
  SELECT peer_id, arg_max(peer, seq) AS peer, count(*) FILTER (direction = 'in') AS tasks_in,
    count(*) FILTER (direction = 'out') AS tasks_out, max(ts) AS last_task_at
  FROM task_row GROUP BY peer_id
), trusting AS (
  SELECT peer_id, arg_max(peer, seq) AS peer, arg_max(key, seq) AS key,
    arg_max(trusted, seq) AS trusted, arg_max(decided_by, seq) AS decided_by,
    max(ts) AS decided_at
  FROM trust_row GROUP BY peer_id
)
SELECT peer_id, coalesce(t.peer, s.peer) AS peer, coalesce(trusted, false) AS trusted, key,
  decided_by, decided_at, coalesce(tasks_in, 0) AS tasks_in, coalesce(tasks_out, 0) AS tasks_out,
  last_task_at, split_part(coalesce(t.peer, s.peer), '.', 1) AS peer_name
FROM trusting t FULL JOIN seen s USING (peer_id);
COMMENT ON VIEW peers IS 'one row per node that was trusted or had tasks';
COMMENT ON COLUMN peers.peer_id IS 'stable id';
COMMENT ON COLUMN peers.peer IS 'the latest name';
COMMENT ON COLUMN peers.peer_name IS 'that name up to its first dot, as commands take it';
COMMENT ON COLUMN peers.trusted IS 'whether its cmesh key is trusted now';
COMMENT ON COLUMN peers.key IS 'its cmesh key, Ed25519, base64url';
COMMENT ON COLUMN peers.decided_by IS 'who decided that';
COMMENT ON COLUMN peers.decided_at IS 'when';
COMMENT ON COLUMN peers.tasks_in IS 'tasks it asked for here';
COMMENT ON COLUMN peers.tasks_out IS 'tasks it was asked for';
COMMENT ON COLUMN peers.last_task_at IS 'when the latest of them was stored';

CREATE OR REPLACE VIEW audit AS
SELECT l.seq, l.ts, l.kind, l.task_id, a.data, l.canon, lower(hex(l.h)) AS h
FROM log l LEFT JOIN audit_row a USING (seq);
COMMENT ON VIEW audit IS 'the log: one row per record of any kind, chained by hashes';
COMMENT ON COLUMN audit.seq IS 'from 1, without holes';
COMMENT ON COLUMN audit.ts IS 'when it was committed';
COMMENT ON COLUMN audit.kind IS 'task, state, fact, event, decision, result, receipt, trust, or an audit word';
COMMENT ON COLUMN audit.task_id IS 'the task it is about';
COMMENT ON COLUMN audit.data IS 'details of an audit word; NULL for the other kinds';
COMMENT ON COLUMN audit.canon IS 'canonical JSON; digests stand for texts';
COMMENT ON COLUMN audit.h IS 'SHA-256 over the previous row''s hash and canon, hex';

CREATE OR REPLACE VIEW connections AS
WITH ended AS (
  SELECT data->>'$.connection' AS id, ts, data FROM audit_row WHERE kind = 'connection_ended'
)
SELECT a.ts, a.task_id, a.data->>'$.host' AS host, a.data->>'$.address' AS address,
  TRY_CAST(a.data->>'$.port' AS BIGINT) AS port, a.data->>'$.verdict' AS verdict,
  a.data->>'$.code' AS code, a.data->>'$.reason' AS reason, a.data->>'$.detail' AS detail,
  TRY_CAST(e.data->>'$.bytes_out' AS BIGINT) AS bytes_out,
  TRY_CAST(e.data->>'$.bytes_in' AS BIGINT) AS bytes_in,
  TRY_CAST(e.data->>'$.seconds' AS DOUBLE) AS seconds, e.data->>'$.end' AS ended_by,
  TRY_CAST(e.data->>'$.status' AS BIGINT) AS status,
  a.data->>'$.connection' AS connection, a.seq, trace_id
FROM audit_row a LEFT JOIN ended e ON e.id = a.data->>'$.connection'
LEFT JOIN (SELECT task_id, any_value(trace_id) AS trace_id FROM traces GROUP BY task_id) t
  ON t.task_id = a.task_id
WHERE a.kind = 'connection';
COMMENT ON VIEW connections IS 'one row per connection that a task with a sandbox asked for, and per request of its gateway';
COMMENT ON COLUMN connections.ts IS 'when it was decided; nothing of the task went out before';
COMMENT ON COLUMN connections.task_id IS 'the task';
COMMENT ON COLUMN connections.host IS 'the name it asked for; empty = none could be read';
COMMENT ON COLUMN connections.address IS 'where that led; empty = it was refused before';
COMMENT ON COLUMN connections.port IS '0 = none could be read';
COMMENT ON COLUMN connections.verdict IS 'allowed or refused';
COMMENT ON COLUMN connections.code IS 'host, model, gateway or mcp when allowed, else the kind of refusal';
COMMENT ON COLUMN connections.reason IS 'what the task was told';
COMMENT ON COLUMN connections.detail IS 'what the task was not told';
COMMENT ON COLUMN connections.bytes_out IS 'of the task; NULL = refused, open, or the daemon died';
COMMENT ON COLUMN connections.bytes_in IS 'to the task';
COMMENT ON COLUMN connections.seconds IS 'from the first byte out to the end';
COMMENT ON COLUMN connections.ended_by IS 'closed, broken, idle, task ended, daemon stopped, or why a request had no answer';
COMMENT ON COLUMN connections.status IS 'of the model''s answer to a request; NULL = none came, or it is no request';
COMMENT ON COLUMN connections.connection IS 'joins its rows of audit';
COMMENT ON COLUMN connections.seq IS 'the row in audit';
COMMENT ON COLUMN connections.trace_id IS 'the call that led to it: view traces';

CREATE OR REPLACE VIEW chain_bad AS
WITH salted AS (
  SELECT min(seq) AS since FROM log WHERE (canon->>'$.v')::INTEGER >= 3
), resealed AS (
  SELECT (named->>0)::BIGINT AS seq, named->>1 AS canon_sha256 FROM (
    SELECT unnest(from_json(data->'$.resealed', '["JSON"]')) AS named
    FROM audit_row WHERE kind = 'texts_erased')
)
SELECT seq FROM (
  SELECT seq AS row_seq, seq, h, canon, lag(h, 1, unhex(repeat('00', 32))) OVER w AS previous,
    lag(seq, 1, 0) OVER w AS before
  FROM log WINDOW w AS (ORDER BY seq)
) WHERE before + 1 IS DISTINCT FROM seq
  OR (h IS DISTINCT FROM unhex(sha256(previous || encode(canon)))
    AND NOT EXISTS (SELECT 1 FROM resealed r
      WHERE r.seq = row_seq AND r.canon_sha256 = sha256(canon)
        AND r.seq < (SELECT coalesce(since, r.seq + 1) FROM salted)));
COMMENT ON VIEW chain_bad IS 'rows of audit that do not fit the chain; empty when all is well';
COMMENT ON COLUMN chain_bad.seq IS 'the row in audit';
