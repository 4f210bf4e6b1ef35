-- How devices logged in last: their newest session, and which of the copies of their stores goes on.
ALTER TABLE devices ADD COLUMN session    INTEGER NOT NULL DEFAULT 0; -- raised by every login: what comes over an older one is not written
ALTER TABLE devices ADD COLUMN session_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN life       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN token      BLOB;                       -- none before the first login
ALTER TABLE devices ADD COLUMN next       BLOB;                       -- told, and not confirmed
