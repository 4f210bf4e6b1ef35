//! conclave-mls
