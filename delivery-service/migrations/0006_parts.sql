-- The public state of a group, in rows: documents, the roster's rows, nodes of the ratchet tree and others each have their own, so that an
-- entry of the log writes what it changes. The roots of the log since the epoch began are in group_log.
CREATE TABLE group_parts (
    group_id BLOB NOT NULL REFERENCES groups (id),
    part     BLOB NOT NULL,
    value    BLOB NOT NULL,
    sum      BLOB NOT NULL,
    PRIMARY KEY (group_id, part)
) STRICT, WITHOUT ROWID;

-- The states as they were stored before, each in one value. The program derives the rows when it opens the database; what it cannot read
-- stays here.
CREATE TABLE group_checkpoints (
    group_id       BLOB PRIMARY KEY REFERENCES groups (id),
    checkpoint     BLOB NOT NULL,
    checkpoint_sum BLOB
) STRICT;
INSERT INTO group_checkpoints (group_id, checkpoint, checkpoint_sum) SELECT id, checkpoint, checkpoint_sum FROM groups;
ALTER TABLE groups DROP COLUMN checkpoint;
ALTER TABLE groups DROP COLUMN checkpoint_sum;
ALTER TABLE groups DROP COLUMN group_info;
