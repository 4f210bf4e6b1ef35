//! One object-safe trait, [`Crdt`], over CRDT engines: Yjs documents ([`yjs::Yrs`]) and Automerge documents
//! ([`automerge::Automerge`]), each behind a cargo feature of its own, both on by default.
//!
//! ```
//! use conclave_crdt::{Applied, CrdtKind, ReplicaId, create};
//!
//! # fn main() -> Result<(), conclave_crdt::CrdtError> {
//! # let (seed_a, seed_b) = ([1; 16], [2; 16]);
//! // Seeds are 16 random bytes, drawn anew for every replica.
//! let mut alice = create(CrdtKind::Yjs, ReplicaId::for_kind(CrdtKind::Yjs, seed_a))?;
//! let mut bob = create(CrdtKind::Yjs, ReplicaId::for_kind(CrdtKind::Yjs, seed_b))?;
//!
//! if let Some(text) = alice.text() {
//!     text.splice(0, 0, "minutes of the meeting")?;
//! }
//! let mut updates = Vec::new();
//! alice.take_pending(&mut updates)?; // sealed, sent and ordered elsewhere
//!
//! for update in &updates {
//!     let read = bob.inspect(update)?; // whose operations are these?
//!     let range = &read.info.ranges[0];
//!     assert_eq!(range.start, bob.next_counter(&range.replica));
//!     assert_eq!(bob.apply_inspected(vec![(update, read)])?, Applied::Complete);
//! }
//! assert_eq!(alice.content_digest()?, bob.content_digest()?);
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//! - **Own operations only.** [`Crdt::take_pending`] never repeats what others wrote or deleted.
//! - **Ids before effects.** [`Crdt::inspect`] reads which replica wrote which counters without running an engine, so that
//!   an update can be judged before it is applied.
//! - **Hostile bytes are contained.** Everything foreign is read by a strict reader of this crate first: checksums, sizes,
//!   counts, clocks, nesting. Engines run inside a containment that turns their panics into [`CrdtError::Panicked`] without
//!   printing them, since their texts can quote the document; the document is poisoned then, and is rebuilt by the caller.
//! - **No silent fork.** A second operation under a known id is [`CrdtError::Equivocation`] wherever the first one is still
//!   held, as is anything new under the own id.
//! - **Nothing is lost.** Operations whose dependencies are missing wait in the document and in its snapshots.
//! - **One digest.** [`Crdt::content_digest`] is equal on all replicas with the same operations.
//!
//! # What it never does
//! It does no I/O, reads no clock, draws no randomness and starts no thread. It does not decide who may write under which
//! replica id. It cannot contain an endless loop or a failed allocation inside an engine, and nothing at all where panics
//! abort (as on wasm): there, run documents in a worker that can be killed.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

#[cfg(not(any(feature = "yjs", feature = "automerge")))]
compile_error!("conclave-crdt needs at least one engine: enable the feature `yjs` or `automerge`");

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

pub mod anchor;
mod api;
mod attribution;
#[cfg(feature = "automerge")]
pub mod automerge;
mod contain;
pub mod cost;
mod deeds;
mod diff;
mod differences;
mod error;
mod foreign;
mod inspected;
mod json;
mod kinds;
pub mod limits;
mod ranges;
mod reader;
mod types;
#[cfg(feature = "yjs")]
pub mod yjs;

pub use api::{Crdt, Edited, JsonView, PathElement, Refusal, Root, RootShape, TextView};
pub use attribution::{AttributedValue, Attribution, ByReplica, Run, Stretch, Writers, WrittenBy};
pub use deeds::Deeds;
pub use diff::items::{ItemMatch, item_id, match_items, naming_member};
pub use diff::text::{TextEdit, merged as merged_text, text_edits};
pub use differences::{Difference, Differences, Differs, Numbers, Outline, differences};
pub use error::CrdtError;
pub use foreign::{Foreign, ForeignError, recognise};
pub use inspected::Inspected;
pub use json::{is_unwritable, merged_value as merged_json};
pub use kinds::{CrdtKind, create, load, split_update};
pub use types::{Applied, OpRange, ReplicaId, UpdateInfo, Version};
