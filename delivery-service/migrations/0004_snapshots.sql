-- weight: encoded bytes of all updates up to and including the record; of a document, of all of them. What is between two positions says
-- whether a snapshot is worth its place. Of records that were there before, only what was sealed is counted.
ALTER TABLE records ADD COLUMN weight INTEGER NOT NULL DEFAULT 0;
UPDATE records SET weight = sums.weight
    FROM (SELECT doc, seq, SUM(CASE WHEN kind = 1 THEN IFNULL(LENGTH(sealed), 0) ELSE 0 END) OVER (PARTITION BY doc ORDER BY seq) AS weight
          FROM records) AS sums
    WHERE sums.doc = records.doc AND sums.seq = records.seq;
ALTER TABLE documents ADD COLUMN weight INTEGER NOT NULL DEFAULT 0;
UPDATE documents SET weight = IFNULL((SELECT weight FROM records WHERE doc = documents.id AND seq = documents.size - 1), 0);

-- parent_seq: position of the active snapshot's parent; none where the active one is the document's first. parent_ms: when it was replaced.
ALTER TABLE documents ADD COLUMN parent_seq INTEGER;
ALTER TABLE documents ADD COLUMN parent_ms INTEGER;
UPDATE documents SET parent_ms = unixepoch() * 1000,
    parent_seq = (SELECT MAX(seq) FROM records WHERE doc = documents.id AND kind = 3 AND seq < documents.snapshot_seq);

-- Snapshots that are neither a document's first, nor its active one, nor that one's parent. Their content goes some time after replaced_ms;
-- their places in the log stay.
CREATE TABLE replaced_snapshots (
    replaced_ms INTEGER NOT NULL,
    doc         INTEGER NOT NULL REFERENCES documents (id),
    seq         INTEGER NOT NULL,
    PRIMARY KEY (replaced_ms, doc, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO replaced_snapshots (replaced_ms, doc, seq)
    SELECT unixepoch() * 1000, r.doc, r.seq FROM records r JOIN documents d ON d.id = r.doc
    WHERE r.kind = 3 AND r.seq > 0 AND r.seq < d.snapshot_seq AND r.seq <> d.parent_seq;
