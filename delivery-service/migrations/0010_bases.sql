-- Groups that members brought: of their logs only what came after that is here.

-- Size of the log then; null where the group was founded here.
ALTER TABLE groups ADD COLUMN base INTEGER;

CREATE TABLE bases (
    group_id BLOB PRIMARY KEY REFERENCES groups (id),
    frontier BLOB NOT NULL, -- right edge of the log then
    roots    BLOB NOT NULL, -- roots of the log since the epoch began, up to that
    entries  BLOB NOT NULL, -- signed entries before it that created, closed and voided documents
    sum      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Of which generation the wanted head is.
ALTER TABLE recovery ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
