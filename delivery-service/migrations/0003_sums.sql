-- Checksums, so that what a failing disk changed is found when it is read. Missing in what was stored before.
ALTER TABLE groups ADD COLUMN checkpoint_sum BLOB;
ALTER TABLE records ADD COLUMN sum BLOB;
