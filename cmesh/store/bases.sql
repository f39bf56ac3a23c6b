-- Version 11: what a task's copy of its directory holds: empty = the commit. NULL in rows from before.

ALTER TABLE task_row ADD COLUMN base VARCHAR;
