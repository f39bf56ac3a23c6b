-- Version 18: texts can be erased. Each of them stands in the chain as a digest, whose salt is
-- beside it and goes with it. NULL = erased; salt is NULL in rows without texts and from before.
-- `erased` is what was done so far: the chain's rows `texts_erased` say the same.

ALTER TABLE task_row ALTER COLUMN payload_hash DROP NOT NULL;
ALTER TABLE task_row ALTER COLUMN accept DROP NOT NULL;
ALTER TABLE step_row ALTER COLUMN reason DROP NOT NULL;
ALTER TABLE step_row ALTER COLUMN data DROP NOT NULL;
ALTER TABLE step_row ADD COLUMN salt VARCHAR;
ALTER TABLE decision_row ALTER COLUMN reason DROP NOT NULL;
ALTER TABLE decision_row ALTER COLUMN failed DROP NOT NULL;
ALTER TABLE decision_row ADD COLUMN salt VARCHAR;
ALTER TABLE result_row ALTER COLUMN output_sha256 DROP NOT NULL;
ALTER TABLE result_row ALTER COLUMN worker_signature DROP NOT NULL;
ALTER TABLE result_row ALTER COLUMN caller_signature DROP NOT NULL;
ALTER TABLE receipt_row ALTER COLUMN signature DROP NOT NULL;
ALTER TABLE receipt_row ADD COLUMN salt VARCHAR;
ALTER TABLE audit_row ALTER COLUMN data DROP NOT NULL;
ALTER TABLE audit_row ADD COLUMN salt VARCHAR;
CREATE TABLE erased (seq BIGINT NOT NULL, by_seq BIGINT NOT NULL);
