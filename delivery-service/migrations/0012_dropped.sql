-- Groups that the operator removed, and the generation that began with that: heads of their logs from before say nothing of what has their ids since.
CREATE TABLE dropped (
    group_id   BLOB PRIMARY KEY,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
