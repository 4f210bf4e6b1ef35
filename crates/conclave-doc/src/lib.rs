//! The encrypted record stream of one document: sealing, opening, judging, ordering, snapshots, and getting own edits into the log.
//!
//! A [`Document`] is one device's view of one ordered log. Records come in as the service delivers them; each is judged by rules that depend
//! on nothing but the log before it and the group's roster, so that all members judge alike. What is wrong with a record is a [`Finding`]
//! that names who is probably at fault; the record keeps its place in the Merkle log and the document goes on.
//!
//! # Promises
//! - Every record is bound to its group, document, epoch, author and place: to the author's previous record and to the log that the author
//!   had seen. What is dropped, reordered, replayed or forked shows with the next honest record that crosses the split.
//! - An own edit is visible at once, and is in the log, still queued, or given back to be kept apart ([`Unsent`]).
//! - One signature covers an author's whole run of records; one engine call applies everything that arrived together.
//! - Rows from [`Document::take_changes`] lead from one loadable state to the next, whichever batch was the last that was written.
//! - Foreign bytes are contained: sizes are capped, nothing panics, and an update that the CRDT engine cannot stand is left out, with its
//!   signer named.
//! - No plaintext or key shows in `Debug` or in an error.
//!
//! # Never
//! It does no I/O, reads no clock, and keeps no randomness beyond a seed for fresh ids. It holds no epoch's root longer than a call. It does
//! not decide who is a member: the roster does.

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

mod aside;
mod based;
mod blame;
mod candidate;
mod carried;
mod charge;
mod checks;
mod claims;
mod content;
mod context;
mod document;
mod drafts;
mod error;
mod examine;
mod heard;
mod history;
mod incoming;
mod kept;
mod light;
mod log;
mod lost;
mod open;
mod outbox;
mod own;
mod payload;
mod refound;
mod replica;
mod reread;
mod rules;
mod seal;
mod session;
mod settle;
mod snapshot;
mod state;
mod store;
mod stored;
mod unsent;
mod views;
mod watch;
mod weight;
mod words;

pub use blame::{Blame, ByRecord, Shown, View, Writer};
pub use checks::{Basis, Checked, Confirmed, Missed, PassedOver, Refuted};
pub use claims::{ClaimRun, Claims};
pub use conclave_mls::{RowChange, Rows};
pub use context::{
    Append, Blocked, Change, ChangeKind, CheckWanted, Cost, DeliverOutcome, DocContext, EditFn,
    PendingVerdict, RefusedOutcome, RootsNeeded, Sealer,
};
pub use document::Document;
pub use drafts::DRAFT_BYTES;
pub use error::{DocError, Fault, Finding, Suspect};
pub use history::{DeletedOf, EditDeeds, LogPage, LogRecord, MOST_NAMED, PAGE_RECORDS, Recorded};
pub use kept::{Keeping, KeptItem, KeptLog, is_kept, present_segments, snapshot_row};
pub use log::{LogView, SeenFault};
pub use lost::Whose;
pub use open::{Beginning, Standing};
pub use payload::{
    Account, CarriedPayload, DiffersWhy, Judgement, ReplicaOwner, SNAPSHOT_VERSION,
    SnapshotPayload, Tables, VERDICT_VERSION, VerdictPayload,
};
pub use refound::Founding;
pub use seal::{
    DocKeys, KeySource, RecordKeys, open, open_bytes, open_with, padded_len, seal, seal_bytes,
    seal_with_nonce,
};
pub use session::Session;
pub use snapshot::PreparedSnapshot;
pub use unsent::{StoredDocument, Unsent, stored_updates};
pub use watch::{At, RecordAt, Watch};
pub use words::{Around, Inserted, Item, Mark, Step, Typed, Word, Written, write_words};
