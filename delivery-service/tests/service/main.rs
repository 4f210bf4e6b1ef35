//! The service through its WebSocket, spoken to by a client that builds every frame itself, with real MLS groups.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod crash;
mod delivery;
mod documents;
mod groups;
mod harness;
mod hostile;
mod key_packages;
mod limits;
mod login;
mod rotation;
mod storage;
