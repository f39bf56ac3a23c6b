-- Version 12: uncommitted changes that a caller sends with a task. NULL in rows from before, and without.

ALTER TABLE task_row ADD COLUMN changes JSON;
