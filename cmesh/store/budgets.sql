-- Version 7: limits of turns and tokens, and the turns of a run. NULL in rows from before: no limit, not told.

ALTER TABLE task_row ADD COLUMN limit_turns BIGINT;
ALTER TABLE task_row ADD COLUMN limit_tokens BIGINT;
ALTER TABLE result_row ADD COLUMN turns BIGINT;
