-- Version 10: what a worker found out about a run. NULL in rows from before, and where nothing ran.
-- A text: commands and output stand in it, so that it can be erased without breaking the chain.

ALTER TABLE result_row ADD COLUMN evidence JSON;
