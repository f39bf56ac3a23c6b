-- Version 9: files that a task is asked to hand over, and those it handed over. NULL = none.

ALTER TABLE task_row ADD COLUMN artifacts JSON;
ALTER TABLE result_row ADD COLUMN artifacts JSON;
