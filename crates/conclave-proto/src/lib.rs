//! conclave-proto
