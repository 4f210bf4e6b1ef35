//! What tests of several crates share. For development only: it is never published, and only test targets may use it.

pub mod decoders;
