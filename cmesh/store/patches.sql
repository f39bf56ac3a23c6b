-- Version 6: what a task changed of its copy of a directory. NULL in rows from before, and for tasks without a copy.

ALTER TABLE result_row ADD COLUMN patch JSON;
