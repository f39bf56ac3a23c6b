-- Version 1. Rows are only ever added. Neither keys nor checks: what enters was checked in
-- encode.py before it was acknowledged, and DuckDB must not refuse an acknowledged row.
-- Every table's seq is the row's number in `log`; texts that may be erased have their salt beside.

CREATE TABLE store_row (
  incarnation VARCHAR NOT NULL, node VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE log (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, kind VARCHAR NOT NULL, task_id UUID,
  canon VARCHAR NOT NULL, h BLOB NOT NULL
);
CREATE TABLE task_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID NOT NULL, direction VARCHAR NOT NULL,
  peer_id VARCHAR NOT NULL, peer VARCHAR NOT NULL, principal VARCHAR NOT NULL,
  session VARCHAR NOT NULL, project VARCHAR NOT NULL, idempotency_key VARCHAR NOT NULL,
  payload_hash VARCHAR NOT NULL, worker_incarnation VARCHAR NOT NULL, rule VARCHAR,
  runner VARCHAR NOT NULL, profile VARCHAR NOT NULL, directory VARCHAR NOT NULL,
  prompt VARCHAR, prompt_bytes BIGINT NOT NULL, salt VARCHAR,
  runtime_s BIGINT NOT NULL, limit_bytes BIGINT NOT NULL, limit_usd DOUBLE,
  accept JSON NOT NULL, origin JSON NOT NULL, not_after TIMESTAMPTZ NOT NULL,
  traceparent VARCHAR NOT NULL
);
CREATE TABLE step_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID NOT NULL, direction VARCHAR NOT NULL,
  kind VARCHAR NOT NULL, name VARCHAR NOT NULL, witness VARCHAR NOT NULL, code VARCHAR NOT NULL,
  reason VARCHAR NOT NULL, data JSON NOT NULL
);
CREATE TABLE event_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID NOT NULL, direction VARCHAR NOT NULL,
  n BIGINT NOT NULL, event_ts TIMESTAMPTZ NOT NULL, event_kind VARCHAR NOT NULL,
  text VARCHAR, data JSON, salt VARCHAR, spool_end BIGINT NOT NULL
);
CREATE TABLE decision_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID, direction VARCHAR NOT NULL,
  peer_id VARCHAR NOT NULL, peer VARCHAR NOT NULL, principal VARCHAR NOT NULL,
  operation VARCHAR NOT NULL, effect VARCHAR NOT NULL, rule VARCHAR, reason VARCHAR NOT NULL,
  failed JSON NOT NULL, policy_sha256 VARCHAR NOT NULL
);
CREATE TABLE result_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID NOT NULL, direction VARCHAR NOT NULL,
  state VARCHAR NOT NULL, witness VARCHAR NOT NULL, exit_code BIGINT,
  text VARCHAR, error VARCHAR, salt VARCHAR, code VARCHAR NOT NULL,
  output_bytes BIGINT NOT NULL, output_kept BIGINT NOT NULL, output_sha256 VARCHAR NOT NULL,
  truncated BOOLEAN NOT NULL, cost_usd DOUBLE, tokens_in BIGINT, tokens_out BIGINT,
  runner_version VARCHAR NOT NULL, profile_enforced VARCHAR NOT NULL, credential VARCHAR NOT NULL,
  processes_left BIGINT NOT NULL, started_at TIMESTAMPTZ, ended_at TIMESTAMPTZ,
  worker_signature VARCHAR NOT NULL, caller_signature VARCHAR NOT NULL
);
CREATE TABLE receipt_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID, peer_id VARCHAR NOT NULL,
  peer VARCHAR NOT NULL, receipt_kind VARCHAR NOT NULL, head_seq BIGINT NOT NULL,
  head_hash VARCHAR NOT NULL, signature VARCHAR NOT NULL
);
CREATE TABLE trust_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, peer_id VARCHAR NOT NULL, peer VARCHAR NOT NULL,
  key VARCHAR NOT NULL, trusted BOOLEAN NOT NULL, decided_by VARCHAR NOT NULL
);
CREATE TABLE audit_row (
  seq BIGINT NOT NULL, ts TIMESTAMPTZ NOT NULL, task_id UUID, kind VARCHAR NOT NULL,
  data JSON NOT NULL
);
