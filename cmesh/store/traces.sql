-- Version 17: the trace that a task is in, as its header names it. NULL in rows from before, and where none came.

ALTER TABLE task_row ADD COLUMN trace VARCHAR;
