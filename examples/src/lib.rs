//! conclave-examples
