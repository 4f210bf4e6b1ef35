//! conclave-tests
