-- Version 2: follow-up turns. Rows from before have NULL there: they follow nothing.

ALTER TABLE task_row ADD COLUMN follows UUID;
ALTER TABLE task_row ADD COLUMN thread UUID;
ALTER TABLE task_row ADD COLUMN turn BIGINT;
ALTER TABLE result_row ADD COLUMN follow_up VARCHAR;
ALTER TABLE result_row ADD COLUMN follow_up_until TIMESTAMPTZ;
