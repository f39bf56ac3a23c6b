-- Version 3: secrets that were taken out, and what a worker's signature covers beside the outcome. NULL in rows from before.

ALTER TABLE result_row ADD COLUMN redacted BIGINT;
ALTER TABLE result_row ADD COLUMN basis JSON;
ALTER TABLE result_row ADD COLUMN extra JSON;
