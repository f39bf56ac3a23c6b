-- Structured answers: the schema that a task is asked to answer by, and its answer. NULL = none.

ALTER TABLE task_row ADD COLUMN answer_schema VARCHAR;
ALTER TABLE result_row ADD COLUMN answer VARCHAR;
