-- Everything that the service stores. Numbers that are compared and set live in rows of their own table; the UNIQUE constraints are
-- what guarantees one commit per epoch, one record per clock and one position per record.

-- The service's signing key and other single values. What it needs when it was put back: generation (encoded) and head_key (its seed), hold (when
-- the hold over all logs ends), heads (seconds that no signed head's time lies past), running (there from the start to the orderly end).
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
    revoked    INTEGER NOT NULL DEFAULT 0,
    -- How it logged in last: its newest session, and which of the copies of its store goes on.
    session    INTEGER NOT NULL DEFAULT 0, -- raised by every login: what comes over an older one is not written
    session_ms INTEGER NOT NULL DEFAULT 0,
    life       INTEGER NOT NULL DEFAULT 0,
    token      BLOB,                       -- none before the first login
    next       BLOB                        -- told, and not confirmed
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
CREATE INDEX key_packages_by_device ON key_packages (device);

CREATE TABLE invitations (
    hash       BLOB PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses_left  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- wrap: the root wrap that came with the newest commit. genesis: hash of what created the group. version: raised with everything that changes a
-- group, so that whoever has it in memory sees whether that is what is stored. grown_in: number of the generation in which the log last grew.
-- base: size of the log when a member brought the group, of which only what came after that is here; null where it was founded here.
CREATE TABLE groups (
    id         BLOB PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    root       BLOB NOT NULL,
    wrap       BLOB,
    genesis    BLOB NOT NULL,
    creator    BLOB NOT NULL,
    version    INTEGER NOT NULL DEFAULT 0,
    grown_in   INTEGER NOT NULL DEFAULT 0,
    base       INTEGER
) STRICT;

-- The public state of a group, in rows: documents, the roster's rows, nodes of the ratchet tree and others each have their own, so that an
-- entry of the log writes what it changes. The roots of the log since the epoch began are in group_log.
CREATE TABLE group_parts (
    group_id BLOB NOT NULL REFERENCES groups (id),
    part     BLOB NOT NULL,
    value    BLOB NOT NULL,
    sum      BLOB NOT NULL,
    PRIMARY KEY (group_id, part)
) STRICT, WITHOUT ROWID;

-- What is known of groups that members brought.
CREATE TABLE bases (
    group_id BLOB PRIMARY KEY REFERENCES groups (id),
    frontier BLOB NOT NULL, -- right edge of the log then
    roots    BLOB NOT NULL, -- roots of the log since the epoch began, up to that
    entries  BLOB NOT NULL, -- signed entries before it that created, closed and voided documents
    sum      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

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
-- last_epoch, last_epoch_seq: epoch of the newest record, and the first position of that epoch. weight: encoded bytes of all updates.
-- parent_seq: position of the active snapshot's parent; none where the active one is the document's first. parent_ms: when it was replaced.
-- grown_in: number of the generation in which the log last grew. base: right edge of the log where members brought the document from some point
-- on; null where all of it is here. Inner nodes before that lie in `nodes`, also lower ones, as far as they show what records have seen.
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
    weight             INTEGER NOT NULL DEFAULT 0,
    parent_seq         INTEGER,
    parent_ms          INTEGER,
    grown_in           INTEGER NOT NULL DEFAULT 0,
    base               BLOB,
    UNIQUE (group_id, document)
) STRICT;

-- kind: 1 update, 2 verdict, 3 snapshot. seen: size of the prefix its author had seen; hint: first bytes of that prefix's root.
-- covered: size that the snapshot active before this record covers. root: of the log up to and including this record. header: snapshots only; the others' follows from the columns.
-- sum: checksums of the row, and of what a chained record seals, so that what a failing disk changed is found when it is read. weight: encoded bytes of all updates up to and including the record;
-- what is between two positions says whether a snapshot is worth its place.
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
    sum     BLOB NOT NULL,
    weight  INTEGER NOT NULL DEFAULT 0,
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
-- For what is asked of one device among many: its instances that still write in a document.
CREATE INDEX authors_open ON authors (doc, device) WHERE closed = 0;

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

-- Snapshots that are neither a document's first, nor its active one, nor that one's parent. Their content goes some time after replaced_ms;
-- their places in the log stay.
CREATE TABLE replaced_snapshots (
    replaced_ms INTEGER NOT NULL,
    doc         INTEGER NOT NULL REFERENCES documents (id),
    seq         INTEGER NOT NULL,
    PRIMARY KEY (replaced_ms, doc, seq)
) STRICT, WITHOUT ROWID;

-- Logs that are being returned; document zero for a group's own. They refer to nothing: what was lost is not there.
CREATE TABLE recovery (
    group_id  BLOB NOT NULL,
    document  BLOB NOT NULL,
    want_size  INTEGER NOT NULL,
    want_root  BLOB NOT NULL,
    began_ms   INTEGER NOT NULL,
    ends_ms    INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, -- of which the wanted head is
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

-- Groups that the operator removed, and the generation that began with that: heads of their logs from before say nothing of what has their ids since.
CREATE TABLE dropped (
    group_id   BLOB PRIMARY KEY,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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
