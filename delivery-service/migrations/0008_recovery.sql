-- What a service needs that was put back. `meta` gains: generation (encoded) and head_key (its seed), hold (when the hold over all logs ends),
-- heads (seconds that no signed head's time lies past), running (there from the start to the orderly end).

-- Number of the generation in which a log last grew.
ALTER TABLE groups    ADD COLUMN grown_in INTEGER NOT NULL DEFAULT 0;
ALTER TABLE documents ADD COLUMN grown_in INTEGER NOT NULL DEFAULT 0;

-- Logs that are being returned; document zero for a group's own. They refer to nothing: what was lost is not there.
CREATE TABLE recovery (
    group_id  BLOB NOT NULL,
    document  BLOB NOT NULL,
    want_size INTEGER NOT NULL,
    want_root BLOB NOT NULL,
    began_ms  INTEGER NOT NULL,
    ends_ms   INTEGER NOT NULL,
    PRIMARY KEY (group_id, document)
) STRICT, WITHOUT ROWID;
CREATE INDEX recovery_by_end ON recovery (ends_ms, group_id, document);

-- Losses that were declared, encoded.
CREATE TABLE losses (
    group_id   BLOB NOT NULL,
    document   BLOB NOT NULL,
    generation INTEGER NOT NULL,
    loss       BLOB NOT NULL,
    PRIMARY KEY (group_id, document, generation)
) STRICT, WITHOUT ROWID;
