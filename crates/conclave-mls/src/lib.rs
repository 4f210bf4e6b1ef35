//! MLS for Conclave: the client's group, the service's public group, the storage overlay, the epoch key schedule, and the one judgement of
//! commits that both sides share. The only crate that names OpenMLS.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod actions;
mod device;
mod error;
mod facts;
mod judge;
mod keys;
mod keystore;
mod message;
mod overlay;
mod profile;
mod provider;
mod public;
mod roster;
mod state;
mod wrap;
