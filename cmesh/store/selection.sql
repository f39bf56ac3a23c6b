-- Version 8: how a caller came to a task's peer, and the group it was asked for in. NULL in rows from before, and for tasks of one peer that was named.

ALTER TABLE task_row ADD COLUMN selection JSON;
