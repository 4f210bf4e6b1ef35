//! The rules of a group, as pure functions: what the service asks before it orders something, and every member after.
//!
//! - [`GroupState`] is the public state of a group, a pure function of its log; [`Roster`] says who was in it, with which key and role, when.
//! - [`judge_commit`] judges a commit by its [`CommitFacts`]; [`GroupState`] judges proposals, signed entries and root wraps.
//! - [`judge_record`] judges what a document's log is given, by its header and its [`Place`].
//! - Who may do what is data: [`actions::ACTIONS`].
//!
//! # Promises
//! - The service and every honest member come to the same verdict: what is judged, and by what, is the same on both sides. Where the sides
//!   differ on purpose, the difference is an argument ([`Gate`]).
//! - An ordered commit or record is refused only by what is a pure function of the log before it and of its bytes. No clock decides.
//!
//! # Never
//! It does no I/O and reads no clock. It knows no key that opens anything, and no MLS library.

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

pub mod actions;
mod authority;
mod facts;
pub mod judge;
mod record;
mod roster;
mod state;

pub use authority::Authority;
pub use facts::{CommitFacts, Committer, Covered, LeafFacts, LeafLifetime};
pub use judge::judge_commit;
pub use record::{
    Active, Chain, Fit, Gate, LogId, Place, Seen, check_chain, judge_author, judge_record,
    max_sealed_bytes,
};
pub use roster::{BadRoster, Roster, RosterRow, RowCause, Signer, verify_signature};
pub use state::{
    DocumentEntry, EntryEffect, EpochState, GROUP_STATE_BYTES, GROUP_STATE_VERSION, GroupState,
    PendingProposal, ProposalFacts, ProposalKind, ProposalVerdict, StateParts, StateRows, Void,
    Voids,
};
