-- Documents that members brought from some point on: right edge of the log there; null where all of it is here. Inner nodes before that lie in `nodes`,
-- also lower ones, as far as they show what records have seen.
ALTER TABLE documents ADD COLUMN base BLOB;
