-- version: raised with everything that changes a group, so that whoever has it in memory sees whether that is what is stored.
ALTER TABLE groups ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
