//! MLS for Conclave (RFC 9420 over OpenMLS): a member's group, and the service's view of it.
//!
//! - [`ClientGroup`] creates, joins, commits, processes the group log and rejoins. It lives in memory; its changes are handed over as rows
//!   to be written in one transaction, and every call that fails leaves it as it was.
//! - [`PublicGroupState`] is the same group at the service, without a key: it judges commits, proposals and entries before they are ordered.
//! - Both take the same facts from a commit, and have it judged by `conclave-rules`; so the service and every honest member come to the same
//!   verdict.
//! - [`KeyStore`] holds the private halves of this device's key packages; [`check_key_package`] judges those of others.
//! - [`EpochSecrets`] are what the rest of the system gets out of MLS: the epoch's root, its wrap key and its presence root.
//!
//! This is the only crate that names OpenMLS. OpenMLS checks no identities, does not say whom an external commit may remove, and accepts
//! commits that leave out pending proposals: all of that is checked here.
//!
//! # Promises
//! - An ordered commit is refused only by what is a pure function of the public state before it and of its bytes. No clock decides: the
//!   lifetimes of added leaves are judged on their bytes, and what OpenMLS, which looks at the machine's clock, then still says of them is
//!   that clock's fault ([`ProcessError::ClockWrong`]).
//! - Foreign bytes never take the program down: sizes are capped, and a panic in OpenMLS becomes an error and a reload.
//! - A failed join leaves the key package usable. A pending commit survives a reload and is never dropped by anything but its own echo,
//!   another commit, or [`ClientGroup::discard_pending`].
//! - No secret shows in `Debug` or in an error; stored values are wiped from memory when dropped.
//!
//! # Never
//! It does no I/O and reads no clock of its own; it does not decide whether a user is trusted, and it seals no documents.

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

mod client;
mod device;
mod error;
mod facts;
mod follower;
mod keys;
mod keystore;
mod lifetimes;
mod message;
mod overlay;
mod profile;
mod provider;
mod public;
mod stored;
mod wrap;

pub use client::{
    ClientGroup, CommitInputs, CommitOutcome, Created, GroupInfoVerdict, Joined, PendingCommit,
    Plan, Prepared, Processed, RejoinOffer,
};
pub use device::DeviceContext;
pub use error::{Fault, MlsError, ProcessError};
pub use follower::Follower;
pub use keys::{EpochRoot, EpochSecrets, LabelExpander, Secret32, expand_with_label};
pub use keystore::{CheckedKeyPackage, Generated, KeyStore, check_key_package};
pub use overlay::{Overlay, OverlayError, RowChange, Rows};
pub use profile::POLICY_EXTENSION;
pub use provider::Provider;
pub use public::{
    Adoption, Beside, JudgedCommit, JudgedProposal, PublicGroupState, Retaken, check_founded,
    removes_somebody,
};
pub use wrap::open_wrap;
