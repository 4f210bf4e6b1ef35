//! conclave-identity
