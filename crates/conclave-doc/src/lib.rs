//! conclave-doc
