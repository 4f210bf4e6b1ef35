-- How many bytes are stored: of a log (document all zero: the group's own) for a user, for a user, of a group. They change with what they count.
CREATE TABLE usage (
    group_id BLOB NOT NULL,
    document BLOB NOT NULL,
    user     BLOB NOT NULL,
    bytes    INTEGER NOT NULL,
    PRIMARY KEY (group_id, document, user)
) STRICT, WITHOUT ROWID;
CREATE TABLE usage_users (
    user  BLOB PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_users_most ON usage_users (bytes);
CREATE TABLE usage_groups (
    group_id BLOB PRIMARY KEY,
    bytes    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_groups_most ON usage_groups (bytes);

-- For whom a snapshot counts while it has its content.
CREATE TABLE paid_snapshots (
    group_id BLOB NOT NULL,
    document BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    user     BLOB NOT NULL,
    bytes    INTEGER NOT NULL,
    PRIMARY KEY (group_id, document, seq)
) STRICT, WITHOUT ROWID;

-- Deleted documents, and those closed as lost, that still have content, and from which position on.
CREATE TABLE erasing (
    doc  INTEGER PRIMARY KEY REFERENCES documents (id),
    from_seq INTEGER NOT NULL
) STRICT;
INSERT INTO erasing (doc, from_seq) SELECT id, 0 FROM documents WHERE closed IN (2, 3);

-- What is there already counts for who wrote it; snapshots, whose authors no column names, for who made the document.
INSERT INTO paid_snapshots (group_id, document, seq, user, bytes)
    SELECT d.group_id, d.document, r.seq, v.user, IFNULL(LENGTH(r.sealed), 0) + IFNULL(LENGTH(r.header), 0)
    FROM records r JOIN documents d ON d.id = r.doc JOIN devices v ON v.device = d.creator
    WHERE r.kind = 3 AND r.sealed IS NOT NULL;
INSERT INTO usage (group_id, document, user, bytes)
    SELECT group_id, document, user, SUM(bytes) FROM (
        SELECT group_id, document, user, bytes FROM paid_snapshots
        UNION ALL
        SELECT d.group_id, d.document, v.user, IFNULL(LENGTH(r.sealed), 0) AS bytes
        FROM records r JOIN documents d ON d.id = r.doc
        JOIN authors a ON a.doc = r.doc AND a.no = r.author JOIN devices v ON v.device = a.device
        WHERE r.kind <> 3
        UNION ALL
        SELECT l.group_id, zeroblob(16), v.user, LENGTH(l.entry) AS bytes
        FROM group_log l JOIN groups g ON g.id = l.group_id JOIN devices v ON v.device = g.creator
    ) GROUP BY group_id, document, user;
INSERT INTO usage_users (user, bytes) SELECT user, SUM(bytes) FROM usage GROUP BY user;
INSERT INTO usage_groups (group_id, bytes) SELECT group_id, SUM(bytes) FROM usage GROUP BY group_id;
