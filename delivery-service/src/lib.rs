//! The delivery service: orders MLS commits and encrypted records, stores them durably, hands them to whom they concern.
//!
//! It promises that each group and each document has one log without gaps, that exactly one commit ends each epoch, that what it
//! acknowledged is durable and never moves, and that an append or commit is judged against the group's public state in the very
//! transaction that stores it. A device that was removed gets no record accepted afterwards. A slow client never slows another.
//!
//! It never sees a key or a plaintext: the code that could open a record is not linked. It logs no payload and no identifier in full.
//!
//! ```no_run
//! # async fn example() -> Result<(), conclave_ds::StartError> {
//! use conclave_ds::{Config, Service};
//! let config = Config::new("/var/lib/conclave", ([127, 0, 0, 1], 7700).into());
//! let service = Service::start(config).await?;
//! println!("clients connect to {}", service.url());
//! service.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

mod addresses;
mod apart;
mod config;
mod connection;
mod core_dump;
mod document;
mod env;
mod error;
mod group;
mod heads;
mod http;
mod hub;
mod invitation;
pub mod limits;
mod listener;
mod misconduct;
mod rate;
mod recover;
mod recovery;
mod service;
mod shared;
pub mod sqlite;
mod tell;
mod writer;

pub use conclave_order::rows::InvitationRow as Invitation;
pub use config::{Admission, Clock, Config, Durability, Limits};
pub use core_dump::leave_no_core;
pub use error::StartError;
pub use invitation::{Invitations, NewInvitation};
pub use rate::{Bucket, RateLimits};
pub use recover::{Holding, Recovery, Restored};
pub use service::{Service, asked_to_end};
pub use sqlite::{StoreError, Usage};
