//! The service through its WebSocket, spoken to by a client that builds every frame itself, with real MLS groups.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod adopted;
mod asks;
mod crash;
mod crowd;
mod damage;
mod delivery;
mod documents;
mod external;
mod forge;
mod full;
mod group_info;
mod groups;
mod harness;
mod hostile;
mod key_packages;
mod limits;
mod login;
mod misconduct;
mod nodes;
mod noise;
mod presence;
mod process;
mod recovery;
mod returned;
mod rotation;
mod scenes;
mod snapshots;
mod storage;
mod turns;
