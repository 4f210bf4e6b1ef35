//! conclave-engine
