//! conclave-ds
