-- Everything that the service stores. Numbers that are compared and set live in rows of their own table; the UNIQUE constraints are
-- what guarantees one commit per epoch, one record per clock and one position per record.

-- The service's signing key and other single values.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE accounts (
    user       BLOB PRIMARY KEY,
    created_ms INTEGER NOT NULL,
    disabled   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A device belongs to the user and the key under which it first logged in.
CREATE TABLE devices (
    device     BLOB PRIMARY KEY,
    user       BLOB NOT NULL REFERENCES accounts (user),
    key        BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    revoked    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_by_user ON devices (user);

-- Every device list ever accepted; the one with the highest number counts.
CREATE TABLE device_lists (
    user      BLOB NOT NULL,
    seq       INTEGER NOT NULL,
    list      BLOB NOT NULL,
    stored_ms INTEGER NOT NULL,
    PRIMARY KEY (user, seq)
) STRICT, WITHOUT ROWID;

-- A one-time package that was handed out leaves its hash behind, so that it cannot be published again while it is fresh.
CREATE TABLE key_packages (
    hash        BLOB PRIMARY KEY,
    device      BLOB NOT NULL REFERENCES devices (device),
    last_resort INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    package     BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX key_packages_left ON key_packages (device, last_resort, created_ms) WHERE package IS NOT NULL;
CREATE INDEX key_packages_by_age ON key_packages (created_ms);

CREATE TABLE invitations (
    hash       BLOB PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses_left  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- checkpoint: the public state after some entry of the log; signed entries after it are applied again when it is read.
-- wrap: the root wrap that came with the newest commit. genesis: hash of what created the group.
CREATE TABLE groups (
    id         BLOB PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    root       BLOB NOT NULL,
    group_info BLOB NOT NULL,
    checkpoint BLOB NOT NULL,
    wrap       BLOB,
    genesis    BLOB NOT NULL,
    creator    BLOB NOT NULL
) STRICT;

-- kind: 1 commit, 2 proposal, 3 signed entry. epoch: the one that a commit ends.
CREATE TABLE group_log (
    group_id BLOB NOT NULL REFERENCES groups (id),
    seq      INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    epoch    INTEGER,
    leaf     BLOB NOT NULL,
    root     BLOB NOT NULL,
    entry    BLOB NOT NULL,
    PRIMARY KEY (group_id, seq),
    UNIQUE (group_id, leaf)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX group_log_commits ON group_log (group_id, epoch) WHERE kind = 1;
CREATE INDEX group_log_signed ON group_log (group_id, seq) WHERE kind = 3;

CREATE TABLE members (
    group_id BLOB NOT NULL REFERENCES groups (id),
    device   BLOB NOT NULL,
    user     BLOB NOT NULL,
    PRIMARY KEY (group_id, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_device ON members (device);
CREATE INDEX members_by_user ON members (user);

CREATE TABLE wraps (
    group_id BLOB NOT NULL REFERENCES groups (id),
    epoch    INTEGER NOT NULL,
    signer   BLOB NOT NULL,
    wrap     BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch, signer)
) STRICT, WITHOUT ROWID;

-- What all who join in one epoch need; kept while the epoch is current or a Welcome is unacknowledged.
CREATE TABLE join_states (
    group_id BLOB NOT NULL REFERENCES groups (id),
    epoch    INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    frontier BLOB NOT NULL,
    state    BLOB NOT NULL,
    tree     BLOB NOT NULL,
    wrap     BLOB NOT NULL,
    welcome  BLOB,
    PRIMARY KEY (group_id, epoch)
) STRICT;

CREATE TABLE welcomes (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    epoch    INTEGER NOT NULL,
    device   BLOB NOT NULL,
    FOREIGN KEY (group_id, epoch) REFERENCES join_states (group_id, epoch)
) STRICT;
CREATE INDEX welcomes_by_device ON welcomes (device);
CREATE INDEX welcomes_by_epoch ON welcomes (group_id, epoch);

-- due_epoch: epoch under which a new snapshot has to come, 0 for none. covered, snapshot_*: the active snapshot.
-- last_epoch, last_epoch_seq: epoch of the newest record, and the first position of that epoch.
CREATE TABLE documents (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id           BLOB NOT NULL REFERENCES groups (id),
    document           BLOB NOT NULL,
    crdt               INTEGER NOT NULL,
    creator            BLOB NOT NULL,
    size               INTEGER NOT NULL,
    frontier           BLOB NOT NULL,
    last_epoch         INTEGER NOT NULL,
    last_epoch_seq     INTEGER NOT NULL,
    author_count       INTEGER NOT NULL,
    covered            INTEGER NOT NULL,
    snapshot_seq       INTEGER NOT NULL,
    snapshot_id        BLOB NOT NULL,
    snapshot_header    BLOB NOT NULL,
    snapshot_epoch_seq INTEGER NOT NULL,
    due_epoch          INTEGER NOT NULL DEFAULT 0,
    closed             INTEGER,
    UNIQUE (group_id, document)
) STRICT;

-- kind: 1 update, 2 verdict, 3 snapshot. seen: size of the prefix its author had seen; hint: first bytes of that prefix's root.
-- covered: size that the snapshot active before this record covers. root: of the log up to and including this record. header: snapshots only; the others' follows from the columns.
CREATE TABLE records (
    doc     INTEGER NOT NULL REFERENCES documents (id),
    seq     INTEGER NOT NULL,
    kind    INTEGER NOT NULL,
    author  INTEGER,
    clock   INTEGER,
    epoch   INTEGER NOT NULL,
    seen    INTEGER NOT NULL,
    hint    BLOB NOT NULL,
    covered INTEGER NOT NULL,
    leaf    BLOB NOT NULL,
    root    BLOB NOT NULL,
    header  BLOB,
    sealed  BLOB,
    PRIMARY KEY (doc, seq),
    UNIQUE (doc, author, clock)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX records_snapshots ON records (doc, leaf) WHERE kind = 3;

-- Inner nodes of the documents' Merkle trees from a certain level on; lower ones are computed from leaves.
CREATE TABLE nodes (
    doc   INTEGER NOT NULL REFERENCES documents (id),
    level INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    hash  BLOB NOT NULL,
    PRIMARY KEY (doc, level, at)
) STRICT, WITHOUT ROWID;

-- Authors of updates and verdicts, numbered by their first record.
CREATE TABLE authors (
    doc        INTEGER NOT NULL REFERENCES documents (id),
    no         INTEGER NOT NULL,
    device     BLOB NOT NULL,
    instance   BLOB NOT NULL,
    next_clock INTEGER NOT NULL,
    last_leaf  BLOB NOT NULL,
    closed     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (doc, no),
    UNIQUE (doc, device, instance)
) STRICT, WITHOUT ROWID;
