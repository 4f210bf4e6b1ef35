//! What the application wrote and nobody else has yet.

use std::sync::{Arc, Mutex, PoisonError};

use yrs::{Doc, Origin, TransactionMut};

use super::scan::Deletes;
use crate::error::{CrdtError, Result};
use crate::ranges::RangeSet;

/// Marks transactions of this crate; every other transaction is a local edit.
pub(super) const FOREIGN_ORIGIN: &str = "conclave-crdt";
const OBSERVER: &str = "conclave-crdt-capture";

/// Local edits since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// How many transactions changed the document.
    pub(super) transactions: u64,
    /// The same, not only since they were last taken.
    pub(super) edits: u64,
    /// The first one's update; useful while it is the only one.
    pub(super) first: Vec<u8>,
    /// What all of them deleted.
    pub(super) deletes: Deletes,
    /// Own operations end here, as far as the observer saw.
    pub(super) clock: u32,
    /// A transaction inserted operations of another replica.
    pub(super) foreign: bool,
}

/// Shared between the adapter and the engine's observer.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture(Arc<Mutex<Captured>>);

impl Capture {
    /// Runs `f` on the captured edits.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Captured) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts watching a document.
    pub(super) fn watch(&self, doc: &Doc) -> Result<()> {
        let capture = self.clone();
        let ours: Origin = FOREIGN_ORIGIN.into();
        doc.observe_after_transaction(OBSERVER, move |txn: &mut TransactionMut<'_>| {
            if txn.origin() != Some(&ours) && txn.has_changes() {
                capture.with(|captured| captured.record(txn));
            }
        })
        .map_err(|_| CrdtError::Engine)
    }
}

impl Captured {
    fn record(&mut self, txn: &TransactionMut<'_>) {
        let me = txn.doc().client_id();
        for (client, ranges) in txn.insert_set().iter() {
            if *client == me {
                let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
                self.clock = self.clock.max(end);
            } else {
                self.foreign = true;
            }
        }
        for (client, ranges) in txn.delete_set().iter() {
            let deleted: &mut RangeSet = self.deletes.entry(client.get()).or_default();
            for range in ranges.iter() {
                deleted.insert(u64::from(range.start), u64::from(range.end));
            }
        }
        // One transaction is sent as it was encoded here; many are encoded together when they are taken.
        self.first = if self.transactions == 0 {
            txn.encode_update_v1()
        } else {
            Vec::new()
        };
        self.transactions += 1;
        self.edits += 1;
    }
}
