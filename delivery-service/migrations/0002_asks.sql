-- Pleas for help to the members of a group, until they are answered. what: 1 a root wrap, 2 to be added anew.
CREATE TABLE asks (
    group_id BLOB NOT NULL REFERENCES groups (id),
    device   BLOB NOT NULL REFERENCES devices (device),
    what     INTEGER NOT NULL,
    user     BLOB NOT NULL,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (group_id, device, what)
) STRICT, WITHOUT ROWID;
CREATE INDEX asks_by_device ON asks (device);
