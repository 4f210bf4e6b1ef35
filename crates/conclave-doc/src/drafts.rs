//! Own edits at rest: while sending is paused they wait behind the queue, without clock, predecessor and epoch. When it goes on they come in as few
//! records as hold them.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::ReplicaId;

use crate::content::Plain;
use crate::context::DeliverOutcome;
use crate::document::Document;
use crate::error::DocError;
use crate::outbox::{OutItem, Own};
use crate::session::Session;

/// So many bytes of drafts are kept of one document.
pub const DRAFT_BYTES: usize = 64 * 1024 * 1024;

/// Updates by their numbers, which are the keys of their rows.
#[derive(Default)]
pub(crate) struct Drafts {
    /// Whether what is written becomes a draft.
    made: bool,
    items: BTreeMap<u64, OutItem>,
    bytes: usize,
    /// Rows that changed.
    dirty: BTreeSet<u64>,
    /// Rows in the store.
    stored: BTreeSet<u64>,
}

/// The first draft of an empty queue: there is room before it for what was queued earlier.
const FIRST: u64 = 1 << 62;

impl Drafts {
    pub(crate) fn are_made(&self) -> bool {
        self.made
    }

    pub(crate) fn make(&mut self, made: bool) {
        self.made = made;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &OutItem> {
        self.items.values()
    }

    fn insert(&mut self, number: u64, plain: Plain, replicas: Vec<ReplicaId>) {
        self.bytes = self.bytes.saturating_add(plain.len());
        self.dirty.insert(number);
        let item = OutItem {
            number,
            what: Own::Update,
            plain,
            replicas,
            carries: None,
            sealed: None,
        };
        self.items.insert(number, item);
    }

    pub(crate) fn push(&mut self, plain: Plain, replicas: Vec<ReplicaId>) {
        let last = self.items.last_key_value();
        let number = last.map_or(FIRST, |(number, _)| number.saturating_add(1));
        self.insert(number, plain, replicas);
    }

    /// Puts updates that were queued earlier before all that is here.
    pub(crate) fn put_before(&mut self, earlier: Vec<OutItem>) {
        let first = self.items.first_key_value();
        let first = first.map_or(FIRST, |(number, _)| *number);
        let first = first.saturating_sub(earlier.len() as u64);
        for (number, item) in (first..).zip(earlier) {
            self.insert(number, item.plain, item.replicas);
        }
    }

    /// Takes out the one with these bytes.
    pub(crate) fn take_one(&mut self, update: &[u8]) -> Option<OutItem> {
        let mut items = self.items.iter();
        let found = items.find(|(_, item)| item.plain.as_slice() == update);
        let number = found.map(|(number, _)| *number)?;
        let item = self.items.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(item.plain.len());
        self.dirty.insert(number);
        Some(item)
    }

    /// Takes out all, in their order.
    pub(crate) fn take(&mut self) -> Vec<OutItem> {
        self.bytes = 0;
        self.dirty.extend(self.items.keys());
        std::mem::take(&mut self.items).into_values().collect()
    }

    /// Rows to write and to delete since the last call.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Option<OutItem>)> {
        let mut out = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            match self.items.get(&number) {
                Some(item) => {
                    self.stored.insert(number);
                    out.push((number, Some(item.clone())));
                }
                None if self.stored.remove(&number) => out.push((number, None)),
                None => {}
            }
        }
        out
    }

    /// Puts a stored one back.
    pub(crate) fn restore(&mut self, item: OutItem) {
        self.stored.insert(item.number);
        self.bytes = self.bytes.saturating_add(item.plain.len());
        self.items.insert(item.number, item);
    }
}

impl Document {
    /// From now on what is written stays here as drafts, or is queued to be sent. What was queued and never sealed becomes drafts too. What is on its
    /// way goes on: the service may have it.
    ///
    /// # Errors
    /// [`DocError::Crdt`] when the CRDT cannot be built again; drop the document and load it from its rows.
    pub fn keep_drafts(&mut self, keep: bool, session: Option<&Session>) -> Result<(), DocError> {
        if keep == self.outbox.drafts.are_made() {
            return Ok(());
        }
        self.collect_edits()?;
        self.outbox.drafts.make(keep);
        if keep {
            let sent = session.map_or(0, |session| self.outbox.in_flight(session));
            self.outbox.hold(sent);
        }
        Ok(())
    }

    /// Whether what is written here stays here as drafts.
    #[must_use]
    pub fn keeps_drafts(&self) -> bool {
        self.outbox.drafts.are_made()
    }

    /// How many own edits are drafts, and their size in bytes.
    #[must_use]
    pub fn drafts(&self) -> (usize, usize) {
        (self.outbox.drafts.len(), self.outbox.drafts.bytes())
    }

    /// Whether there are drafts that are to be queued: [`Document::queue_drafts`] is to be called when the log is here.
    #[must_use]
    pub fn has_drafts_to_queue(&self) -> bool {
        !self.outbox.drafts.are_made() && !self.outbox.drafts.is_empty()
    }

    /// Whether something waits here that is to go to the service: drafts are not, while they are kept.
    #[must_use]
    pub fn has_unsent_to_send(&self) -> bool {
        !self.outbox.is_empty() || !self.lost.is_empty() || self.has_drafts_to_queue()
    }

    /// Queues the drafts: as few updates as say the same. The rows of both change in one batch.
    ///
    /// # Errors
    /// [`DocError::Crdt`] when the CRDT cannot be built again; drop the document and load it from its rows.
    pub fn queue_drafts(&mut self) -> Result<DeliverOutcome, DocError> {
        self.collect_edits()?;
        if self.has_drafts_to_queue() {
            self.join_drafts();
        }
        Ok(DeliverOutcome::default())
    }

    /// Puts as few updates as say the same in the place of the drafts: into the queue, or where these stay drafts behind it.
    fn join_drafts(&mut self) {
        let drafts = self.outbox.take_drafts();
        let updates: Vec<&[u8]> = drafts.iter().map(|it| it.plain.as_slice()).collect();
        let joined = match self.content.crdt.coalesce(&updates) {
            Ok(few) => self.queue_updates(few).is_ok(),
            Err(_) => false,
        };
        if joined {
            return;
        }
        // They go as they are where they cannot be joined.
        for item in drafts {
            self.outbox.push_update(item.plain, item.replicas);
        }
    }

    /// Another life of this device has an update in the log that was not written here as it is. Where drafts write under one of its ids, that life may
    /// have had them too, and joined them: so they are joined here, and are the same bytes then. Gives whether it is one of them.
    pub(crate) fn was_a_draft(&mut self, update: &[u8], claims: &[(ReplicaId, u64)]) -> bool {
        let mut ids = claims.iter().map(|(replica, _)| replica);
        if !ids.any(|replica| self.outbox.drafts_under(replica)) {
            return false;
        }
        let made = self.outbox.drafts.are_made();
        self.outbox.drafts.make(true);
        self.join_drafts();
        self.outbox.drafts.make(made);
        self.outbox.holds_update(update)
    }
}
