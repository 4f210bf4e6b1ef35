//! Rows of a document's local store. Values are plaintext here: the shell encrypts them at rest.
//!
//! | key | value |
//! |---|---|
//! | `c` | checkpoint: where the view of the log begins, tables, CRDT state after some position |
//! | `l` ‖ position | leaves from there on, between the beginning of the view and the checkpoint |
//! | `m` | instance, what was found of snapshots |
//! | `s` ‖ position | records from there on, as received, with what judging them gave |
//! | `e` ‖ position | what judging that record gave since |
//! | `o` ‖ number | an own record without a place in the log |
//! | `w` ‖ position | a record that waits |
//! | `p` | own snapshot on its way |
//!
//! Every batch of changes leads from one loadable state to the next.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::CrdtKind;
use conclave_mls::{RowChange, Rows};
use conclave_proto::Hash;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::merkle::Frontier;
use rand_core::CryptoRngCore;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::aside::Aside;
use crate::content::{Checkpoint, Content, Fresh, TailEntry};
use crate::context::DocContext;
use crate::document::{Checks, Document};
use crate::error::DocError;
use crate::incoming::Incoming;
use crate::log::LogView;
use crate::outbox::Outbox;
use crate::payload::Judgement;
use crate::seal::KeyRing;
use crate::state::LogState;
use crate::stored::{
    CheckpointRow, MetaRow, OutRow, ROW_VERSION, SegmentEntry, Sorted, malformed, read_idle,
    read_segment, read_update,
};

/// A segment of records is closed past this size, in bytes.
const SEGMENT_BYTES: usize = 64 * 1024;
/// A segment smaller than this is written again with what comes next, in bytes.
const SEGMENT_GROWS_BYTES: usize = 4 * 1024;

/// Most leaves in one row.
const LEAVES_PER_ROW: u64 = 2048;

/// What of the document is not in the store yet.
#[derive(Debug)]
pub(crate) struct RowTracker {
    pub checkpoint_dirty: bool,
    pub meta_dirty: bool,
    pub snapshot_dirty: bool,
    /// Position up to which records are in the store.
    saved_to: u64,
    /// First and last position (exclusive) of rows of leaves in the store.
    leaf_rows: Vec<(u64, u64)>,
    /// First positions of segments in the store, from the checkpoint on.
    segments: Vec<u64>,
    /// The last segment, while it may grow.
    open: Option<(u64, Zeroizing<Vec<u8>>)>,
    /// Positions whose records are in the store, but mean something else than it says there.
    pub changed: BTreeSet<u64>,
    /// Positions with a row of that kind in the store.
    corrected: BTreeSet<u64>,
}

impl RowTracker {
    pub(crate) fn new() -> Self {
        Self {
            checkpoint_dirty: true,
            meta_dirty: true,
            snapshot_dirty: false,
            saved_to: 0,
            leaf_rows: Vec::new(),
            segments: Vec::new(),
            open: None,
            changed: BTreeSet::new(),
            corrected: BTreeSet::new(),
        }
    }
}

fn key(prefix: u8, number: u64) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn cbor<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::new());
    // Writing to memory cannot fail; a row cut short would be refused on loading.
    if ciborium::into_writer(value, &mut *out).is_err() {
        out.clear();
    }
    out
}

fn put(key: Vec<u8>, value: Zeroizing<Vec<u8>>) -> RowChange {
    RowChange {
        key,
        value: Some(value),
    }
}

fn delete(key: Vec<u8>) -> RowChange {
    RowChange { key, value: None }
}

impl Document {
    /// What has changed since the last call, as rows to write and delete in one transaction. Keys are relative to the document.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.rows.checkpoint_dirty) {
            self.put_checkpoint(&mut out);
        }
        self.put_corrections(&mut out);
        self.put_records(&mut out);
        if std::mem::take(&mut self.rows.meta_dirty) | std::mem::take(&mut self.outbox.author_dirty)
        {
            let meta = MetaRow {
                version: ROW_VERSION,
                author: self.outbox.author,
                checked: self.checks.done,
                rests_on: self.checks.rests_on,
                caught_up_epoch: self.caught_up_epoch,
                behind: self.behind,
                aside: self.aside.to_stored(),
            };
            out.push(put(vec![b'm'], cbor(&meta)));
        }
        if std::mem::take(&mut self.rows.snapshot_dirty) {
            let value = self
                .snapshot
                .as_ref()
                .map(|record| Zeroizing::new(encode(record)));
            out.push(RowChange {
                key: vec![b'p'],
                value,
            });
        }
        for (number, item) in self.outbox.take_dirty() {
            // Breakage: edits that are not in the log yet are kept in memory only.
            if crate::broken("drop-outbox-row") {
                continue;
            }
            let value = item.map(|item| {
                cbor(&OutRow {
                    version: ROW_VERSION,
                    verdict: item.verdict,
                    plain: item.plain,
                    replicas: item.replicas,
                    sealed: item.sealed.map(|record| Bytes::from(encode(&record))),
                })
            });
            out.push(RowChange {
                key: key(b'o', number),
                value,
            });
        }
        for (seq, form) in self.incoming.take_dirty() {
            out.push(RowChange {
                key: key(b'w', seq),
                value: form.map(Zeroizing::new),
            });
        }
        out
    }

    fn put_checkpoint(&mut self, out: &mut Vec<RowChange>) {
        let checkpoint = &self.content.checkpoint;
        let row = CheckpointRow {
            version: ROW_VERSION,
            group: self.group,
            document: self.id,
            kind: self.content.kind.code(),
            base: self.log.base_frontier().clone(),
            size: checkpoint.size,
            state: checkpoint.state.clone(),
            crdt: checkpoint.crdt.clone(),
        };
        out.push(put(vec![b'c'], cbor(&row)));
        out.extend(
            self.rows
                .segments
                .drain(..)
                .map(|first| delete(key(b's', first))),
        );
        out.extend(
            std::mem::take(&mut self.rows.corrected)
                .into_iter()
                .map(|seq| delete(key(b'e', seq))),
        );
        self.rows.changed.clear();
        self.rows.open = None;
        let size = checkpoint.size;
        self.rows.saved_to = size;
        self.put_leaves(size, out);
    }

    /// Writes the leaves between the beginning of the view and the checkpoint that are in no row yet. Only the last row grows.
    fn put_leaves(&mut self, to: u64, out: &mut Vec<RowChange>) {
        let base = self.log.base().size;
        let rows = &mut self.rows.leaf_rows;
        rows.retain(|(first, end)| {
            let stays = *end > base && *end <= to;
            if !stays {
                out.push(delete(key(b'l', *first)));
            }
            stays
        });
        // What lies before the view is not known any more, so a row that begins there is left as it is.
        let grows = rows
            .pop_if(|(first, end)| *first >= base && end.saturating_sub(*first) < LEAVES_PER_ROW);
        let mut from = match (grows, rows.last()) {
            (Some((first, _)), _) => first,
            (None, Some((_, end))) => base.max(*end),
            (None, None) => base,
        };
        while from < to {
            let end = to.min(from.saturating_add(LEAVES_PER_ROW));
            let mut leaves = Zeroizing::new(Vec::new());
            for leaf in self.log.leaves(from, end) {
                leaves.extend_from_slice(leaf.as_bytes());
            }
            out.push(put(key(b'l', from), leaves));
            rows.push((from, end));
            from = end;
        }
    }

    /// Writes what stored records mean now, where that has changed.
    fn put_corrections(&mut self, out: &mut Vec<RowChange>) {
        for seq in std::mem::take(&mut self.rows.changed) {
            if seq < self.rows.saved_to
                && let Some(entry) = self.content.entry(seq)
            {
                out.push(put(key(b'e', seq), cbor(&entry.effect)));
                self.rows.corrected.insert(seq);
            }
        }
    }

    /// Writes records that are not in the store yet, as segments.
    fn put_records(&mut self, out: &mut Vec<RowChange>) {
        let begin = self.content.checkpoint.size;
        let skip = usize::try_from(self.rows.saved_to.saturating_sub(begin)).unwrap_or(usize::MAX);
        let mut segment = self.rows.open.take();
        let mut changed = false;
        let unsaved = self.content.tail.get_mut(skip..).unwrap_or_default();
        for (seq, entry) in (begin.saturating_add(skip as u64)..).zip(unsaved) {
            let record = entry
                .sealed
                .take()
                .filter(|_| entry.update.is_some() || entry.idle.is_some())
                .map(Bytes::from);
            let bytes = cbor(&SegmentEntry {
                effect: entry.effect.clone(),
                record,
            });
            if let Some((first, full)) =
                segment.take_if(|(_, rows)| rows.len() + bytes.len() > SEGMENT_BYTES)
            {
                out.push(put(key(b's', first), full));
            }
            let (_, rows) = segment.get_or_insert_with(|| {
                self.rows.segments.push(seq);
                (seq, Zeroizing::new(ROW_VERSION.to_be_bytes().to_vec()))
            });
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            rows.extend_from_slice(&length.to_be_bytes());
            rows.extend_from_slice(&bytes);
            self.rows.saved_to = seq.saturating_add(1);
            changed = true;
        }
        if let Some((first, rows)) = &segment
            && changed
        {
            out.push(put(key(b's', *first), rows.clone()));
        }
        self.rows.open = segment.filter(|(_, rows)| rows.len() < SEGMENT_GROWS_BYTES);
    }

    /// Loads a document from its rows. Edits from now on are written under a fresh replica id.
    ///
    /// # Errors
    /// [`DocError::Stored`], [`DocError::UnknownKind`], [`DocError::MissingRoot`], [`DocError::Crdt`]. The rows stay as they are; open the
    /// document from the service again.
    pub fn load(
        ctx: &DocContext<'_>,
        rows: Rows,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Self, DocError> {
        let mut fresh = Fresh::new(rng);
        let sorted = Sorted::read(rows)?;
        let (checkpoint_row, meta) = (sorted.checkpoint, sorted.meta);
        let (group, id) = (checkpoint_row.group, checkpoint_row.document);
        let kind = CrdtKind::from_code(checkpoint_row.kind).ok_or(DocError::UnknownKind {
            code: checkpoint_row.kind,
        })?;
        let (mut log, leaf_rows) =
            restore_log(checkpoint_row.base, checkpoint_row.size, sorted.leaves)?;
        let mut state = checkpoint_row.state;
        let checkpoint = Checkpoint {
            size: log.size(),
            state: state.clone(),
            crdt: checkpoint_row.crdt,
        };
        let mut tracker = RowTracker::new();
        tracker.checkpoint_dirty = false;
        tracker.meta_dirty = false;
        tracker.leaf_rows = leaf_rows;
        let mut content = Content::new(kind, checkpoint, &mut fresh)?;
        let mut keys = KeyRing::new(ctx.keys, id);
        let mut corrections = sorted.corrections;
        for (first, bytes) in sorted.segments {
            if first != content.size() {
                return Err(malformed("segment"));
            }
            tracker.segments.push(first);
            let mut entries = read_segment(&bytes)?;
            for (seq, entry) in (first..).zip(&mut entries) {
                if let Some(effect) = corrections.remove(&seq) {
                    entry.effect = effect;
                    tracker.corrected.insert(seq);
                }
            }
            replay(entries, &mut keys, &mut log, &mut state, &mut content)?;
        }
        tracker.saved_to = content.size();
        let mut outbox = Outbox::new(meta.author);
        outbox.author_dirty = false;
        sorted
            .outbox
            .into_iter()
            .for_each(|item| outbox.restore(item));
        content.load_all(&outbox.updates(), &mut fresh)?;
        let mut incoming = Incoming::default();
        for (seq, form) in sorted.waiting {
            if seq >= content.size() {
                incoming.restore(seq, form);
            }
        }
        if let Some((snapshot, Judgement::Match, true)) = meta.checked
            && ctx.one_user()
        {
            state.set_matched(&snapshot);
        }
        let checks = Checks {
            sealed: None,
            done: meta.checked,
            rests_on: meta.rests_on,
        };
        let snapshot = sorted.snapshot;
        let aside = Aside::restore(meta.aside, &content);
        Ok(Self {
            group,
            id,
            log,
            state,
            content,
            incoming,
            outbox,
            checks,
            snapshot,
            rows: tracker,
            fresh,
            reported: None,
            caught_up_epoch: meta.caught_up_epoch,
            rolled_back: false,
            behind: meta.behind,
            aside,
        })
    }
}

/// The view of the log up to the checkpoint, from its rows. Also gives which rows there are.
fn restore_log(
    base: Frontier,
    size: u64,
    rows: BTreeMap<u64, Vec<Hash>>,
) -> Result<(LogView, Vec<(u64, u64)>), DocError> {
    let mut log = LogView::new(base);
    let mut places = Vec::new();
    for (first, leaves) in rows {
        let end = first.saturating_add(leaves.len() as u64);
        places.push((first, end));
        for (seq, leaf) in (first..).zip(leaves) {
            if seq == log.size() {
                log.push(leaf);
            }
        }
    }
    if log.size() != size {
        return Err(malformed("leaves"));
    }
    Ok((log, places))
}

/// Gives the records of a segment their places again, as they were judged when they came.
fn replay(
    entries: Vec<SegmentEntry>,
    keys: &mut KeyRing<'_>,
    log: &mut LogView,
    state: &mut LogState,
    content: &mut Content,
) -> Result<(), DocError> {
    for entry in entries {
        log.push(entry.effect.leaf);
        state.apply(content.size(), &entry.effect);
        let update = read_update(&entry, keys)?;
        let idle = read_idle(&entry)?;
        let effect = entry.effect;
        content.push(
            TailEntry {
                effect,
                update,
                sealed: None,
                idle,
            },
            None,
        );
    }
    Ok(())
}
