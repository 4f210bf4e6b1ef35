//! x
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
mod actor;
mod client;
mod config;
mod document;
mod error;
mod events;
mod group;
#[cfg(unix)]
pub mod local;
mod merge;
mod operation;
mod session;
pub mod store;
pub mod transport;

pub use conclave_crdt::automerge::Automerge;
pub use conclave_crdt::yjs::Yrs;
pub use conclave_crdt::{Crdt, CrdtError, CrdtKind};
pub use conclave_engine::{
    DeviceInfo, DocumentInfo, EngineError, GroupInfo, InvitationInfo, MemberInfo, PinInfo, Setup,
    Status, WhoAmI,
};
pub use conclave_proto as proto;

pub use client::{Client, Invitation};
pub use config::Config;
pub use document::{Any, Adapter, Document, Kind};
pub use error::{Error, RemoteError};
pub use events::{Change, Changes, Event, Events, Missed};
pub use group::{Group, Removal};
pub use operation::{Operation, Outcome, View, run};
pub use session::{Session, SessionEvents};
