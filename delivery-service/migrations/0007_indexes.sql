-- For what is asked of one device among many: its key packages, and its instances that still write in a document.
CREATE INDEX key_packages_by_device ON key_packages (device);
CREATE INDEX authors_open ON authors (doc, device) WHERE closed = 0;
