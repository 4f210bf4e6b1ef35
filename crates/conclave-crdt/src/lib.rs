//! conclave-crdt
